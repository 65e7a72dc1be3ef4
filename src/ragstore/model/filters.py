"""Metadata filters as a tree of values: conditions joined by and, or, not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Operator = Literal[
    "==", "!=", ">", ">=", "<", "<=", "in", "nin", "contains", "any", "all",
    "is_empty", "text_match", "text_match_insensitive",
]  # fmt: skip
Joiner = Literal["and", "or", "not"]
Scalar = str | int | float | bool | None

DOCUMENT_KEYS = frozenset({"document_id", "doc_id", "ref_doc_id"})
"""Keys of a condition that mean the id of a node's document, and also the user's own value under that key.

A condition is true if it is true for one of the two; ``!=`` and ``nin`` if they are true for both, ``is_empty`` if
both are empty. For ``any`` and ``all`` the id is a list of one.
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """``key operator value``; types count: ``"07001"`` is never the number 7001.

    Args:
        key: a top-level key of the metadata, any string; one of ``DOCUMENT_KEYS`` is the document's id too.
        value: a scalar, or a sequence of scalars for ``in``, ``nin``, ``any`` and ``all``; ignored by ``is_empty``.
    """

    key: str
    operator: Operator
    value: Scalar | Sequence[Scalar] = None


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions and groups joined; ``not`` is true if none of its parts is; an empty group is true."""

    joiner: Joiner
    parts: Sequence[Filter]


Filter = Condition | Group


def keys_of(tree: Filter) -> list[str]:
    """The keys that a filter names, each once."""
    if isinstance(tree, Condition):
        return [tree.key]
    return list(dict.fromkeys(key for part in tree.parts for key in keys_of(part)))
