"""How far a search looks where the collection has grown since it was measured."""

from __future__ import annotations

import pytest

from ragstore.model.collection import Chunking, Collection, Effort, EmbeddingSpace, Segment
from ragstore.postgres.search import effort_of


@pytest.mark.parametrize(
    ("n_then", "n_now", "expected"),
    [
        (100_000, 119_000, Effort(1_000, 4_000)),
        (100_000, 200_000, Effort(2_000, 8_000)),
        (100_000, 150_000, Effort(1_500, 6_000)),
        (10_000, 1_000_000, Effort(29_000, 24_000)),
        (100_000, 50_000, Effort(1_000, 4_000)),
    ],
)
def test_what_was_measured_on_fewer_nodes_is_used_for_as_large_a_share_of_more(
    n_then: int, n_now: int, expected: Effort
) -> None:
    known = Effort(1_000, 4_000, n_nodes=n_then)
    collection = Collection(
        1,
        "docs",
        EmbeddingSpace("external", 256),
        Chunking(512, 64),
        "english",
        segments=(Segment(1, 0, n_now, n_now, n_now // 16),),
        effort=known,
    )
    effort = effort_of(collection)
    assert (effort.entries, effort.members) == (expected.entries, expected.members)
