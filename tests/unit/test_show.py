from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragstore.errors import UsageError
from ragstore.ingest.nodes import build_nodes
from ragstore.ingest.splitting import split
from ragstore.model.chunk import ParsedDocument
from ragstore.model.collection import Chunking
from ragstore.model.document import SourceItem
from ragstore.postgres.documents import Span
from ragstore.query.show import joined_spans
from ragstore.sources.raw import PART_SEPARATOR, Shape
from ragstore.sources.readers import ReadText

pieces = st.sampled_from(
    ["word", "Sentence.", " ", "\n", "\n\n", "# Title\n", "```\n", "a" * 90, "日本。", "x, y; z", "- item\n", "    code\n",
     "| a | b |\n", "| - | - |\n", "|  |  |\n", "\U0001f600", "\t", "key: value\n\n"]
)  # fmt: skip
texts = st.lists(pieces, min_size=1, max_size=12).map("".join)


def stored_spans(text: ReadText, chunking: Chunking) -> list[Span]:
    """What the stores keep of a document."""
    parsed = ParsedDocument("c0ffee", split(text, chunking), len(text.text))
    nodes = build_nodes(SourceItem("/d.md", "/d.md", 1), parsed)
    return [Span(node.text, node.start_char, node.end_char, node.metadata) for node in nodes]


def shown(spans: list[Span], start: int = 0, end: int | None = None) -> str:
    last = max((span.end_char or 0 for span in spans), default=0)
    end = last if end is None else min(end, last)
    overlapping = [span for span in spans if (span.end_char or 0) > start and (span.start_char or 0) < end]
    return "".join(passage.text for passage in joined_spans("/d.md", overlapping, start, end))


@given(
    st.lists(texts, min_size=1, max_size=10),
    st.sampled_from(["prose", "markdown", "records"]),
    st.integers(1, 40),
    st.integers(0, 20),
    st.data(),
)
@settings(max_examples=300, deadline=None)
def test_the_shown_text_has_every_chunk_at_its_offsets(
    parts: list[str], shape: Shape, size: int, overlap: int, data: st.DataObject
) -> None:
    starts = list(accumulate((len(part) + len(PART_SEPARATOR) for part in parts[:-1]), initial=0))
    text = PART_SEPARATOR.join(parts)
    places = [{"part": i} for i in range(1, len(parts) + 1)]
    spans = stored_spans(ReadText(text, shape, starts, places=places), Chunking(size, min(size, overlap)))
    whole = shown(spans)
    assert whole.split() == text.split()
    assert all(a == b or (a == "\n" and b.isspace()) for a, b in zip(whole, text, strict=False))
    for span in spans:
        assert span.start_char is not None and span.end_char is not None
        assert whole[span.start_char : span.end_char] == text[span.start_char : span.end_char]
        assert span.text.endswith(whole[span.start_char : span.end_char])
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert shown(spans, start, end) == whole[start:end]


def test_passages_follow_each_other_and_say_their_place() -> None:
    text = ReadText("One.\n\nTwo.\n\nThree.", "prose", [0, 6, 12], places=[{"page": 1}, {"page": 2}, {"page": 3}])
    passages = list(joined_spans("/d.md", stored_spans(text, Chunking(2, 0)), 0, 18))
    assert [passage.place for passage in passages] == [{"page": 1}, {"page": 2}, {"page": 3}]
    assert all(a.end_char == b.start_char for a, b in pairwise(passages))


def test_a_document_of_which_positions_are_not_known_is_refused() -> None:
    for span in (Span("text", None, None, {}), Span("text", 0, 9, {})):
        with pytest.raises(UsageError, match="without the positions"):
            list(joined_spans("d", [span], 0, 4))
