"""Compare: the same questions to another vector store and to a collection, and how many hits both have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ragstore.errors import UsageError
from ragstore.transfer.records import node_id_of
from ragstore.transfer.systems.reader import VectorReader


@dataclass(frozen=True, slots=True)
class AskedVector:
    """A question.

    Args:
        embedding: its vector of length ``dim``; None for the collection's model to make it.
    """

    text: str
    embedding: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """What both answered to one question: node ids that only one of them gave, best first.

    Args:
        overlap: share of the hits that both have, 0 to 1.
        same_order: whether both gave the same hits in the same order.
    """

    question: str
    overlap: float
    same_order: bool
    only_there: list[str]
    only_here: list[str]

    def as_dict(self) -> dict[str, Any]:
        """One of ``questions`` in ``compare --json``."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class CompareReport:
    """Result of a comparison.

    Args:
        top_k: hits asked for.
    """

    top_k: int
    questions: list[Compared] = field(default_factory=list)

    @property
    def overlap(self) -> float:
        """Mean share of hits that both have."""
        return float(np.mean([each.overlap for each in self.questions]))

    @property
    def n_equal(self) -> int:
        """Questions to which both gave the same hits, in any order."""
        return sum(each.overlap == 1 for each in self.questions)

    def as_dict(self) -> dict[str, Any]:
        """The shape that ``compare --json`` prints."""
        return {
            "top_k": self.top_k,
            "overlap": round(self.overlap, 4),
            "equal": self.n_equal,
            "questions": [each.as_dict() for each in self.questions],
        }


def compare(
    reader: VectorReader, questions: Sequence[AskedVector], nearest: Callable[[AskedVector], list[str]], top_k: int
) -> CompareReport:
    """Ask both.

    Args:
        questions: with their vectors.
        nearest: the node ids with which the collection answers, best first.

    Raises:
        UsageError: there is no question.
    """
    if not questions:
        raise UsageError("there is no question", hint="name questions")
    report = CompareReport(top_k)
    for question in questions:
        here = nearest(question)
        there = [node_id_of(each) for each in reader.nearest(np.asarray(question.embedding, dtype=np.float32), top_k)]
        n_most = max(len(set(here)), len(set(there)))
        report.questions.append(
            Compared(
                question.text,
                len(set(here) & set(there)) / n_most if n_most else 1.0,
                here == there,
                [each for each in there if each not in here],
                [each for each in here if each not in there],
            )
        )
    return report
