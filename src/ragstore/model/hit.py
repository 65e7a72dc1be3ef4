"""A hit: one node that answers a query, with what a citation needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """One node that answers a query.

    Args:
        score: higher is better; cosine similarity for ``vector``, ``ts_rank`` weighted by the rarity of the
            words for ``keyword``, fused reciprocal rank for ``hybrid``; comparable only within a mode.
        source: where the document was read from.
        start_char: offset of the text in the document's cleaned text, None where unknown.
        page: 1-based page, None for formats without pages.
        headings: section titles around the text, outermost first.
        context: the text with its neighbours in the document; None where not asked for or positions are not known.
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

    def as_dict(self) -> dict[str, Any]:
        """The shape ``query --json`` prints."""
        return asdict(self)
