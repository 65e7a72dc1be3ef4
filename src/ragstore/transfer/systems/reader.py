"""What a reader of another system gives, and how the errors of its client are told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ragstore.errors import ForeignStoreError, NotFoundError, RagstoreError, UsageError, not_installed
from ragstore.model.run import Vectors
from ragstore.settings import masked_url
from ragstore.transfer.systems.location import Location

PAGE = 1_000
COSINE, EUCLID, DOT, UNKNOWN = "cosine", "l2", "dot product", "a metric that it does not tell"


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a vector store.

    Args:
        vector: of shape ``(dim,)``; None if the entry has none.
        text: None if the system has no place of its own for it.
        metadata: everything else, with LlamaIndex's ``_node_content`` if LlamaIndex wrote the entry.
    """

    record_id: str
    vector: Vectors | None
    text: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Described:
    """What a vector store says of itself.

    Args:
        metric: how it compares; one of ``COSINE``, ``EUCLID``, ``DOT``, ``UNKNOWN``, or a name of its own.
        n_records: None if it does not say.
        is_ordered: whether entries come in the order in which they were added.
        sparse: names of vectors that are not taken over, because keywords are searched in the text here.
        others: other vector stores in the same place, as arguments of ``--from``.
        is_lossy: whether the vectors that it gives are not exactly those that it was given.
        has_records: whether entries have metadata; False for an index of vectors alone.
    """

    metric: str
    n_records: int | None = None
    is_ordered: bool = False
    sparse: Sequence[str] = ()
    others: Sequence[str] = ()
    is_lossy: bool = False
    has_records: bool = True


class VectorReader(ABC):
    """A vector store of another system; it is only read."""

    @abstractmethod
    def described(self) -> Described: ...

    @abstractmethod
    def pages(self) -> Iterator[list[Record]]:
        """All entries."""

    @abstractmethod
    def nearest(self, vector: Vectors, k: int) -> list[Record]:
        """The best entries for a question's vector of shape ``(dim,)``, best first; without their vectors."""

    def doubled(self, _limit: int) -> tuple[int, list[str]]:
        """Number of entries too many that ``pages`` leaves out, and ``id: n rows`` of the first."""
        return 0, []

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close the connection."""


def client_module(name: str, extra: str) -> Any:
    """The client's module, imported now.

    Raises:
        UsageError: it is not installed; names the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f"the client of {extra} is not installed", hint=not_installed(extra), extra=extra) from error


@contextmanager
def client_errors(location: Location) -> Iterator[None]:
    """Tell an error of a system's client as ours, without the secret.

    Raises:
        ForeignStoreError: the client failed.
    """
    try:
        yield
    except (RagstoreError, NotImplementedError):
        raise
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        hidden = masked_url(location.hidden(said))
        failure = ForeignStoreError(
            f"{location.shown} cannot be read: {hidden[:300]}",
            hint="check the address, the key and that it runs, then run the same command again: it continues",
            source=location.shown,
        )
        raise failure from (error if hidden == said else None)


def chosen(kind: str, wanted: str | None, existing: Sequence[str], location: Location) -> str:
    """The wanted one of these names, or the only one.

    Raises:
        NotFoundError: there is none of that name, or several and none was named.
    """
    if wanted is not None and wanted in existing:
        return wanted
    if wanted is None and len(existing) == 1:
        return existing[0]
    what = f"has no {kind} {wanted!r}" if wanted is not None else f"has {len(existing)} {kind}s, and none is named"
    names = ", ".join(repr(each) for each in sorted(existing)[:20]) or "none"
    raise NotFoundError(
        f"{location.shown} {what}",
        hint=f"name one that is there: {names}",
        existing=sorted(existing),
    )


def floats(vector: Any) -> Vectors | None:
    """A client's vector as float32 of shape ``(dim,)``; None without one, NaN in place of what is no number."""
    if vector is None:
        return None
    array = np.asarray(vector)
    if array.ndim != 1 or array.size == 0:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)
