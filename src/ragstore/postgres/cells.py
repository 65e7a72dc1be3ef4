"""Clustering of a segment's vectors into a tree: root, regions, cells, nodes.

A question descends the tree: it compares itself with the regions, then with the entries of the nearest regions, then
with the members of the nearest cells. Four things make this find what a graph over mixed corpora misses (decision
record 0014):

- Cells are small, about one for 16 nodes, so that few vectors are compared for the nearest ones.
- A region is judged by what it may hold, not by its centre alone: by the mean of its nodes, and by how far they reach
  from it. A wide region can hold the nearest node of a question though a narrow one's centre is nearer.
- Cells go where vectors are spread, in proportion to the squared distances, not to the numbers: a hundred thousand log
  lines that resemble each other share few cells, and texts that resemble nothing are entries of their own.
- The nodes farthest from their region are at the root, where every question is compared with them.

A node is in the region whose centre is nearest, and there in the cell whose centre is nearest. A search that goes there
too finds each node by its own vector, however little else it compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Halves = NDArray[np.float16]
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

ROOT = 0
NODES_PER_CELL = 16
NODES_PER_REGION = 1_000
MAX_CELL = 512
"""Most nodes of a cell: clustering cannot separate equal vectors, so larger cells are cut."""

_MIN_REGIONS = 4
_SAMPLED_PER_REGION = 64
_ROUNDS = 4
_SHARE_BY_SPREAD = 0.8
_REGION_REACH, _CELL_REACH = 0.35, 0.3
"""How much nearer the nearest of a thousand, or of 16, vectors is than their mean, in units of how far they are from
it: about ``sqrt(2 ln n / d)`` where they spread in d dimensions."""

_ISOLATED_SHARE = 200
_MAX_ISOLATED = 1_000
_AT_ONCE = 8_192


@dataclass(frozen=True, slots=True)
class Entries:
    """Rows of a segment's table, in their stored order.

    Args:
        cells: the region or cell that a row is in, ``ROOT`` or a number from 1; shape ``(n,)``.
        counts: of a region its entries, of a cell its nodes, of a node 0; shape ``(n,)``.
        ids: of a region or cell its number, of a node the id of its row; shape ``(n,)``.
        means: mean similarity of the nodes of a region or cell to its centre; of a node 1; shape ``(n,)``.
        reaches: how much nearer than their mean the nearest node of a region or cell may be; of a node 0; ``(n,)``.
        vectors: of a region or cell its centre; of length 1 or 0, shape ``(n, dim)``.
    """

    cells: Numbers
    counts: Numbers
    ids: Numbers
    means: Floats
    reaches: Floats
    vectors: Halves

    @classmethod
    def of_nodes(cls, cells: Numbers, ids: Numbers, vectors: Halves) -> Entries:
        """Nodes in these cells."""
        ones, zeros = np.ones(len(ids), dtype=np.float32), np.zeros(len(ids), dtype=np.float32)
        return cls(cells, np.zeros(len(ids), dtype=np.int64), ids, ones, zeros, vectors)

    def groups(self) -> Entries:
        """Its regions and cells alone, without their centres."""
        some = self.counts > 0
        no_vectors = np.empty((int(np.count_nonzero(some)), 0), dtype=np.float16)
        return Entries(
            self.cells[some], self.counts[some], self.ids[some], self.means[some], self.reaches[some], no_vectors
        )


def tree(ids: Numbers, vectors: Halves, *, seed: int = 0) -> Iterator[Entries]:
    """All rows of a segment's table: those of the root, then those of each region, then those of each cell.

    Takes about as much memory again as the vectors; a few seconds for each 100,000 of 256 dimensions.

    Args:
        ids: of the nodes' rows, shape ``(n,)``.
        vectors: of length 1 or 0, shape ``(n, dim)``.
    """
    rng = np.random.default_rng(seed)
    n_nodes = len(ids)
    n_regions = max(_MIN_REGIONS, n_nodes // NODES_PER_REGION)
    sample = rng.choice(n_nodes, min(n_nodes, _SAMPLED_PER_REGION * n_regions), replace=False)
    regions = clustered(vectors[np.sort(sample)].astype(np.float32), n_regions, rng)[1]
    nearest, similarity = _assigned(vectors, regions)
    isolated = _isolated(similarity)
    nearest[isolated] = -1
    used, nearest_used = np.unique(nearest[nearest >= 0], return_inverse=True)
    regions = regions[used]
    nearest[nearest >= 0] = nearest_used
    in_regions = _grouped(nearest, len(regions))
    n_cells = _cells_of(nearest, similarity, len(regions))
    parts = []
    next_cell = len(regions) + 1
    for region, members in enumerate(in_regions):
        part = _Region.made(region + 1, next_cell, ids[members], vectors[members], (int(n_cells[region]), rng))
        next_cell += part.n_cells
        parts.append(part)
    mean = np.bincount(nearest[nearest >= 0], similarity[nearest >= 0]) / [len(members) for members in in_regions]
    yield _entries(
        ROOT,
        (np.array([len(part.entries.ids) for part in parts]), np.arange(1, len(regions) + 1)),
        (regions, mean, _REGION_REACH),
        (ids[isolated], vectors[isolated]),
    )
    for part in parts:
        yield part.entries
    for part, members in zip(parts, in_regions, strict=True):
        yield from part.nodes_of_cells(ids[members], vectors[members])


def clustered(vectors: Floats, n_clusters: int, rng: np.random.Generator) -> tuple[Numbers, Floats]:
    """Spherical k-means, begun with vectors that are far from each other (k-means||, Bahmani et al. 2012).

    Returns:
        The cluster of each vector, and the clusters' centres as float16 has them, of length 1; none is empty, and there
        are fewer where fewer vectors differ.
    """
    centres = _seeds(vectors, min(n_clusters, len(vectors)), rng)
    for _ in range(_ROUNDS):
        labels = _nearest(vectors, centres)[0]
        centres = _centres(vectors, labels)
    labels = _nearest(vectors, centres)[0]
    used, labels = np.unique(labels, return_inverse=True)
    return labels, centres[used]


@dataclass(frozen=True, slots=True)
class _Region:
    """A region's entries, and which of its members are in which of its cells.

    Args:
        first_cell: number of its first cell; the others follow.
        in_cells: positions of members, for each cell.
    """

    entries: Entries
    first_cell: int
    in_cells: list[Numbers]

    @property
    def n_cells(self) -> int:
        return len(self.in_cells)

    @classmethod
    def made(
        cls, number: int, first_cell: int, ids: Numbers, vectors: Halves, how: tuple[int, np.random.Generator]
    ) -> _Region:
        wide = vectors.astype(np.float32)
        labels, centres = clustered(wide, *how)
        similarity = np.einsum("ij,ij->i", wide, centres[labels])
        single, in_cells, of_cell = [], [], []
        for label, members in enumerate(_grouped(labels, len(centres))):
            if len(members) == 1:
                single.append(members[0])
                continue
            for begin in range(0, len(members), MAX_CELL):
                in_cells.append(members[begin : begin + MAX_CELL])
                of_cell.append(label)
        alone = np.array(single, dtype=np.int64)
        entries = _entries(
            number,
            (np.array([len(cell) for cell in in_cells], dtype=np.int64), first_cell + np.arange(len(in_cells))),
            (centres[of_cell], np.array([similarity[cell].mean() for cell in in_cells]), _CELL_REACH),
            (ids[alone], vectors[alone]),
        )
        return cls(entries, first_cell, in_cells)

    def nodes_of_cells(self, ids: Numbers, vectors: Halves) -> Iterator[Entries]:
        if not self.in_cells:
            return
        order = np.concatenate(self.in_cells)
        cells = np.repeat(self.first_cell + np.arange(self.n_cells), [len(members) for members in self.in_cells])
        yield Entries.of_nodes(cells, ids[order], vectors[order])


def _entries(
    of: int,
    sizes: tuple[Numbers, Numbers],
    groups: tuple[Floats, NDArray[np.float64], float],
    nodes: tuple[Numbers, Halves],
) -> Entries:
    """Entries of the root or of a region.

    Args:
        of: its number.
        sizes: of each group how many are in it, and its number.
        groups: their centres, the mean similarity of their nodes to these, and how far they reach for it.
        nodes: ids and vectors of single nodes.
    """
    centres, mean, reach = groups
    mean = np.clip(mean, 0, 1)
    alone = Entries.of_nodes(np.full(len(nodes[0]), of), *nodes)
    return Entries(
        np.concatenate([np.full(len(centres), of), alone.cells]),
        np.concatenate([sizes[0], alone.counts]),
        np.concatenate([sizes[1], alone.ids]),
        np.concatenate([mean.astype(np.float32), alone.means]),
        np.concatenate([(reach * np.sqrt(1 - mean**2)).astype(np.float32), alone.reaches]),
        np.concatenate([centres.astype(np.float16), alone.vectors]),
    )


def _cells_of(nearest: Numbers, similarity: Floats, n_regions: int) -> Numbers:
    """How many cells each region gets: most by how far its nodes are from its centre, some by how many they are."""
    kept = nearest >= 0
    n_nodes = np.bincount(nearest[kept], minlength=n_regions)
    spread = np.bincount(nearest[kept], 1 - similarity[kept], minlength=n_regions)
    by_number = n_nodes / max(1, n_nodes.sum())
    by_spread = spread / spread.sum() if spread.sum() > 0 else by_number
    share = _SHARE_BY_SPREAD * by_spread + (1 - _SHARE_BY_SPREAD) * by_number
    wanted: Numbers = np.ceil(share * kept.sum() / NODES_PER_CELL).astype(np.int64)
    return np.minimum(np.maximum(wanted, 1), np.maximum(n_nodes, 1))


def _isolated(similarity: Floats) -> Numbers:
    """Positions of the nodes that are farthest from their region."""
    n = min(len(similarity) // _ISOLATED_SHARE, _MAX_ISOLATED)
    if n == 0:
        return np.empty(0, dtype=np.int64)
    return np.sort(np.argpartition(similarity, n)[:n])


def _seeds(vectors: Floats, n: int, rng: np.random.Generator) -> Floats:
    chosen = [int(rng.integers(len(vectors)))]
    nearest = vectors @ vectors[chosen[0]]
    while len(chosen) < n:
        # float32 keeps seven digits: a difference below is none.
        weight = np.where(1 - nearest > 1e-6, 1 - nearest, 0).astype(np.float64)
        n_others = int(np.count_nonzero(weight))
        if not n_others:
            break
        n_new = min(max(1, n // 8), n - len(chosen), n_others)
        new = rng.choice(len(vectors), n_new, replace=False, p=weight / weight.sum())
        chosen += new.tolist()
        np.maximum(nearest, _nearest(vectors, vectors[new])[1], out=nearest)
    return vectors[chosen]


def _centres(vectors: Floats, labels: Numbers) -> Floats:
    order = np.argsort(labels, kind="stable")
    _, begins = np.unique(labels[order], return_index=True)
    sums = np.add.reduceat(vectors[order], begins, axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    centres = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)
    # The nearest centre is decided with the stored, rounded values.
    stored: Floats = centres.astype(np.float16).astype(np.float32)
    return stored


def _nearest(vectors: Floats, centres: Floats) -> tuple[Numbers, Floats]:
    """The nearest centre of each vector, and how similar it is."""
    labels = np.empty(len(vectors), dtype=np.int64)
    similarity = np.empty(len(vectors), dtype=np.float32)
    for begin in range(0, len(vectors), _AT_ONCE):
        products = vectors[begin : begin + _AT_ONCE] @ centres.T
        best = products.argmax(axis=1)
        labels[begin : begin + _AT_ONCE] = best
        similarity[begin : begin + _AT_ONCE] = products[np.arange(len(best)), best]
    return labels, similarity


def _assigned(vectors: Halves, centres: Floats) -> tuple[Numbers, Floats]:
    labels = np.empty(len(vectors), dtype=np.int64)
    similarity = np.empty(len(vectors), dtype=np.float32)
    for begin in range(0, len(vectors), _AT_ONCE):
        block = vectors[begin : begin + _AT_ONCE].astype(np.float32)
        labels[begin : begin + _AT_ONCE], similarity[begin : begin + _AT_ONCE] = _nearest(block, centres)
    return labels, similarity


def _grouped(labels: Numbers, n: int) -> list[Numbers]:
    """Positions of each label, in their order; of labels below 0 none."""
    order = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[order], np.arange(n + 1))
    return [order[begins[label] : begins[label + 1]] for label in range(n)]
