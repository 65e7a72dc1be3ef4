"""A local document's id is its absolute path; people type the relative one."""

from __future__ import annotations

import os

WHERE_DOCUMENTS_ARE = "run: ragstore documents; -c names another collection"


def spellings(document: str) -> list[str]:
    """The ids that a word on the command line may mean, as it is given first."""
    if "://" in document:
        return [document]
    absolute = os.path.abspath(os.path.expanduser(document))
    return list(dict.fromkeys([document, absolute, os.path.realpath(absolute)]))
