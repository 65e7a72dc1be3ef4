from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from ragstore.model.collection import Segment
from ragstore.postgres.segments import Room, next_merge

MAX_FLAT = 8_000
NODES_PER_CELL = 16


def some(*sizes: int, max_flat: int = MAX_FLAT) -> list[Segment]:
    """Segments of these sizes that follow each other; those of more nodes are trees."""
    made, above = [], 0
    for number, n_nodes in enumerate(sizes):
        n_cells = n_nodes // NODES_PER_CELL if n_nodes > max_flat else 0
        made.append(Segment(number, above, above + n_nodes, n_nodes, n_cells))
        above += n_nodes
    return made


def sizes(run: Sequence[Segment]) -> list[int]:
    return [segment.n_nodes for segment in run]


@dataclass
class Load:
    """A collection that is sealed and merged as a process that adds nodes does it, in numbers alone."""

    room: Room
    segments: list[Segment] = field(default_factory=list)
    n_written: int = 0
    most: int = 0

    def seal(self, n_nodes: int) -> None:
        above = self.segments[-1].upto if self.segments else 0
        self.segments.append(Segment(0, above, above + n_nodes, n_nodes, 0))
        self.n_written += n_nodes
        n_flats = 0
        while n_flats < len(self.segments) and not self.segments[-1 - n_flats].n_cells:
            n_flats += 1
        flats = self.segments[len(self.segments) - n_flats :]
        while len(flats) > 1 and sum(sizes(flats)) > self.room.max_nodes:
            flats = flats[1:]
        if sum(sizes(flats)) > MAX_FLAT:
            self._merge(flats)
        self.most = max(self.most, len(self.segments))

    def merge(self, room: Room | None = None, *, at_most: int = 1_000) -> int:
        """Until nothing is to do; returns how often."""
        for n in range(at_most):
            run = next_merge(self.segments, room or self.room, MAX_FLAT)
            if not run:
                return n
            assert len(run) > 1, "nothing is written again for nothing"
            self._merge(run)
        raise AssertionError(f"it still merges: {sizes(self.segments)}")

    def _merge(self, run: Sequence[Segment]) -> None:
        assert sum(sizes(run)) <= self.room.max_nodes
        at = self.segments.index(run[0])
        assert self.segments[at : at + len(run)] == list(run), "they follow each other"
        n_nodes = sum(sizes(run))
        n_cells = n_nodes // NODES_PER_CELL if n_nodes > MAX_FLAT else 0
        self.segments[at : at + len(run)] = [Segment(0, run[0].above, run[-1].upto, n_nodes, n_cells)]
        self.n_written += n_nodes


@pytest.mark.parametrize("max_nodes", [100_000_000, 1_000_000])
@pytest.mark.parametrize("seed", range(3))
def test_a_load_of_millions_has_few_segments_and_writes_each_node_a_few_times(max_nodes: int, seed: int) -> None:
    chance, load, n_nodes = random.Random(seed), Load(Room(max_nodes)), 0
    while n_nodes < 5_000_000:
        n = chance.randint(500, 3_500)
        load.seal(n)
        n_nodes += n
        load.merge()
    assert sum(sizes(load.segments)) == n_nodes
    assert load.most < 35
    # Sealed, made a tree, and merged once for each level.
    assert load.n_written <= 6 * n_nodes
    before = load.n_written
    load.merge(Room(max_nodes, at_rest=True))
    assert load.n_written <= before + n_nodes
    assert len(load.segments) <= 2 * n_nodes // max_nodes + 10
    assert load.merge(Room(max_nodes, at_rest=True)) == load.merge() == 0


@pytest.mark.parametrize("at_rest", [False, True])
def test_merging_ends_wherever_it_begins(at_rest: bool) -> None:
    chance = random.Random(4)
    for _ in range(300):
        begun = some(*(int(10 ** chance.uniform(0, 6.5)) for _ in range(chance.randint(0, 40))))
        for max_nodes in (100_000_000, 300_000, 20_000, 1):
            load = Load(Room(max_nodes, at_rest=at_rest), list(begun))
            load.merge()
            assert sum(sizes(load.segments)) == sum(sizes(begun))


def test_eight_trees_of_a_size_become_one() -> None:
    seven, eight = some(*[MAX_FLAT + 1] * 7), some(*[MAX_FLAT + 1] * 8)
    assert next_merge(seven, Room(10**9), MAX_FLAT) == ()
    assert list(next_merge(eight, Room(10**9), MAX_FLAT)) == eight
    assert sizes(next_merge(some(2_000_000, *[MAX_FLAT + 1] * 8), Room(10**9), MAX_FLAT)) == [MAX_FLAT + 1] * 8


def test_flat_segments_are_left_to_who_seals_while_nodes_are_added() -> None:
    assert next_merge(some(*[100] * 30), Room(10**9), MAX_FLAT) == ()
    assert next_merge(some(*[MAX_FLAT + 1] * 7, 100, 100), Room(10**9), MAX_FLAT) == ()


def test_a_merge_is_of_no_more_than_fits_into_memory() -> None:
    run = next_merge(some(*[10_000] * 9), Room(45_000), MAX_FLAT)
    assert sizes(run) == [10_000] * 4
    assert next_merge(some(*[10_000] * 9), Room(9_999, at_rest=True), MAX_FLAT) == ()


def test_a_little_that_is_added_again_and_again_has_no_large_segment_written_again() -> None:
    load = Load(Room(1_000_000, at_rest=True), some(900_000, 900_000, 700_000))
    for _ in range(2_000):
        load.seal(50)
        load.merge()
    assert sizes(load.segments)[:3] == [900_000, 900_000, 700_000]
    assert sum(sizes(load.segments)) == 2_500_000 + 2_000 * 50
    assert load.n_written <= 20 * 2_000 * 50


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], []),
        ([5], [5]),
        ([5, 5], [10]),
        ([100_000, 9_000], [100_000, 9_000]),
        ([100_000, 60_000, 60_000], [220_000]),
        ([10, 20, 30, 40], [100]),
        ([1_000_000, 100_000, 10_000, 1_000, 100], [1_000_000, 100_000, 10_000, 1_000, 100]),
        ([1_000_000, 100_000, 10_000, 1_000, 1_000], [1_000_000, 100_000, 10_000, 2_000]),
    ],
)
def test_at_rest_each_segment_is_more_than_all_after_it(before: list[int], after: list[int]) -> None:
    load = Load(Room(10**9, at_rest=True), some(*before))
    load.merge()
    assert sizes(load.segments) == after
    for at, segment in enumerate(load.segments):
        assert segment.n_nodes > sum(sizes(load.segments[at + 1 :]))
    assert all(left.upto == right.above for left, right in pairwise(load.segments))
