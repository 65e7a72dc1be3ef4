"""Hits, the nodes that answer a query, with what a citation needs and the meaning of their scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ragstore.model.document import IN_CONTAINER

ScoreKind = Literal["cosine", "word_rank", "rank_fusion", "mmr"]

SCORES: Mapping[ScoreKind, str] = {
    "cosine": "cosine similarity of question and text, 1 at most; comparable between questions of one collection",
    "word_rank": "rank by words, rare ones counting more; comparable within one answer only",
    "rank_fusion": "w/(15 + place by meaning) + 1/(15 + place by words); says the order and nothing else",
    "mmr": "likeness to the question less likeness to the hits above; comparable within one answer only",
}
"""Meaning of a score, by its kind."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One node that answers a query.

    Args:
        score: higher is better; ``Hits.score_kind`` is its kind.
        source: URI that the document was read from.
        text: of a chunk that begins inside a table, the table's header comes first; it has
            ``len(text) - (end_char - start_char)`` characters.
        start_char: offset in the document's text, which ``Ragstore.show`` gives, None if unknown.
        page: 1-based page, None for formats without pages.
        headings: section titles around the text, outermost first.
        context: the text with its neighbours in the document; None if it was not requested or positions are not known.
    """

    score: float
    text: str
    document_id: str
    source: str
    node_id: str
    metadata: dict[str, Any] = field(default_factory=dict)
    start_char: int | None = None
    end_char: int | None = None
    page: int | None = None
    headings: tuple[str, ...] = ()
    context: str | None = None

    @property
    def origin(self) -> str:
        """Where a person finds it: its source, or, for a member of a container, its id."""
        return self.document_id if IN_CONTAINER in self.document_id else self.source or self.document_id

    def as_dict(self) -> dict[str, Any]:
        """One of ``hits`` in ``query --json``."""
        return asdict(self)


class Hits(list[Hit]):
    """The hits of one question, best first.

    Attributes:
        score_kind: kind of the scores; ``SCORES`` describes it.
        notes: what may be wrong with the question if there are no hits, such as a filter key that no node has.
    """

    def __init__(self, hits: Iterable[Hit], score_kind: ScoreKind, notes: Iterable[str] = ()) -> None:
        super().__init__(hits)
        self.score_kind: ScoreKind = score_kind
        self.notes = tuple(notes)
