"""How far an ingest has come, told from time to time while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts since the start of one ingest.

    Args:
        listed: documents that the listing has shown so far.
        listing_done: whether ``listed`` and ``bytes_listed`` are final.
        done: documents that are dealt with, unchanged and failed ones included.
        failed: of these, the ones set aside in quarantine.
        chunks: chunks published.
        bytes_done: size of the documents in ``done``.
        seconds: since the start.
    """

    listed: int
    listing_done: bool
    done: int
    failed: int
    chunks: int
    bytes_done: int
    bytes_listed: int
    seconds: float
