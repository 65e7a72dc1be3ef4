from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragstore.postgres.cells import MAX_CELL, ROOT, Entries, clustered, tree


def units(vectors: Any) -> Any:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0).astype(np.float16)


def some(n: int, dim: int = 8, *, seed: int = 1) -> Any:
    return units(np.random.default_rng(seed).standard_normal((n, dim)))


def made(vectors: Any, *, seed: int = 0) -> Entries:
    """The whole tree, of nodes with ids 7, 10, 13, …"""
    parts = list(tree(7 + 3 * np.arange(len(vectors)), vectors, seed=seed))
    names = ("cells", "counts", "ids", "means", "reaches", "vectors")
    return Entries(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def assert_is_a_tree(entries: Entries, vectors: Any) -> None:
    """Every node once with its vector; what stands for others says how many, and they are there."""
    nodes, groups = entries.counts == 0, entries.counts > 0
    order = np.argsort(entries.ids[nodes])
    assert entries.ids[nodes][order].tolist() == (7 + 3 * np.arange(len(vectors))).tolist()
    assert np.array_equal(entries.vectors[nodes][order], vectors)
    assert (entries.reaches[nodes] == 0).all() and (entries.means[nodes] == 1).all()

    sizes = Counter(entries.cells.tolist())
    counts = dict(zip(entries.ids[groups].tolist(), entries.counts[groups].tolist(), strict=True))
    assert len(counts) == groups.sum(), "a number stands for one group"
    assert sizes.keys() - {ROOT} == counts.keys()
    assert all(sizes[number] == count for number, count in counts.items())
    regions = {int(number) for number in entries.ids[groups & (entries.cells == ROOT)]}
    assert set(entries.cells[groups].tolist()) <= {ROOT} | regions, "root, regions, cells, and no deeper"
    assert all(count <= MAX_CELL for number, count in counts.items() if number not in regions)

    assert np.isfinite(entries.vectors.astype(np.float32)).all() and np.isfinite(entries.reaches).all()
    assert (entries.reaches >= 0).all() and ((entries.means >= 0) & (entries.means <= 1)).all()
    # What is read together is stored together.
    runs = 1 + np.count_nonzero(np.diff(entries.cells))
    assert runs == len(sizes)


@pytest.mark.parametrize("n", [*range(1, 51), 399, 1_000, 5_000])
def test_every_node_is_in_a_tree_once(n: int) -> None:
    vectors = some(n)
    assert_is_a_tree(made(vectors), vectors)


@pytest.mark.parametrize("n", [1, 2, 17, 600, 3_000])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_vectors_are_in_cells_that_have_a_limit(n: int, value: float) -> None:
    vectors = units(np.full((n, 8), value))
    entries = made(vectors)
    assert_is_a_tree(entries, vectors)
    assert Counter(entries.cells.tolist()).most_common(1)[0][1] <= MAX_CELL


def test_few_vectors_among_many_equal_ones_are_entries_of_their_own() -> None:
    vectors = np.concatenate([np.tile(some(1, 32), (5_000, 1)), some(20, 32, seed=2)])
    entries = made(vectors)
    assert_is_a_tree(entries, vectors)
    alone = entries.cells[np.isin(entries.ids, 7 + 3 * np.arange(5_000, 5_020))]
    most = Counter(entries.cells.tolist())
    assert max(most[cell] for cell in alone.tolist()) <= 200


@pytest.mark.parametrize("n_zero", [1, 30, 299])
def test_zero_vectors_are_among_others(n_zero: int) -> None:
    vectors = some(300)
    vectors[:n_zero] = 0
    assert_is_a_tree(made(vectors), vectors)


@pytest.mark.parametrize("dim", [1, 2, 4_000])
def test_vectors_of_every_length(dim: int) -> None:
    vectors = some(120, dim)
    assert_is_a_tree(made(vectors), vectors)


@settings(max_examples=60)
@given(
    n=st.integers(1, 700),
    dim=st.integers(1, 12),
    n_kinds=st.integers(1, 40),
    noise=st.sampled_from([0.0, 1e-4, 0.1, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_every_node_is_once_in_the_tree_of_any_vectors(n: int, dim: int, n_kinds: int, noise: float, seed: int) -> None:
    chance = np.random.default_rng(seed)
    kinds = chance.standard_normal((n_kinds, dim)) * (chance.random((n_kinds, 1)) > 0.1)
    vectors = units(kinds[chance.integers(n_kinds, size=n)] + noise * chance.standard_normal((n, dim)))
    assert_is_a_tree(made(vectors), vectors)


def test_the_same_seed_makes_the_same_tree() -> None:
    vectors = some(2_500)
    one, same, other = made(vectors), made(vectors), made(vectors, seed=1)
    assert all(
        np.array_equal(getattr(one, name), getattr(same, name)) for name in ("cells", "counts", "ids", "vectors")
    )
    assert not np.array_equal(one.ids, other.ids)


def test_a_group_reaches_the_farther_the_wider_it_is() -> None:
    narrow = units(np.eye(16)[0] + 0.05 * np.random.default_rng(1).standard_normal((2_000, 16)))
    wide = units(-np.eye(16)[0] + np.random.default_rng(2).standard_normal((2_000, 16)))
    entries = made(np.concatenate([narrow, wide]))
    regions = (entries.cells == ROOT) & (entries.counts > 0)
    is_narrow = entries.vectors[regions][:, 0] > 0.9
    assert is_narrow.any() and not is_narrow.all()
    assert entries.reaches[regions][is_narrow].max() < entries.reaches[regions][~is_narrow].max()


def test_no_cluster_is_empty_and_there_are_no_more_than_differ() -> None:
    vectors = np.repeat(some(5).astype(np.float32), 20, axis=0)
    labels, centres = clustered(vectors, 30, np.random.default_rng(1))
    assert sorted(set(labels.tolist())) == list(range(len(centres)))
    assert len(centres) == 5
    assert np.allclose(centres[labels], vectors, atol=1e-3)
