"""The cells of a kill matrix: in which of an operation's batches a worker is killed, and how many other workers there are."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

Cell = TypeVar("Cell")

Passes = Mapping[str, Mapping[str, int]]
"""Operation → failpoint → how often the worker passes it when it is alone."""


def batches(n_passes: int) -> list[int]:
    """The first, a middle and the last of so many times that a failpoint is passed."""
    return sorted({1, (n_passes + 1) // 2, n_passes})


def alone(passes: Passes) -> list[tuple[str, str, int]]:
    """Every failpoint of every operation in each of its batches, each a test of its own, which is soon over."""
    return [(o, f, n) for o, passed in passes.items() for f in passed for n in batches(passed[f])]


def beside_others(passes: Passes) -> list[tuple[str, str, int]]:
    """Every failpoint in one batch of one operation, by chance; all of them with ``RAGSTORE_TEST_CELLS=all``."""
    everything = alone(passes)
    failpoints = sorted({failpoint for _, failpoint, _ in everything})
    return _chosen(everything, [[cell for cell in everything if cell[1] == failpoint] for failpoint in failpoints])


def in_one_batch(passes: Passes) -> list[tuple[str, str, int]]:
    """Every failpoint of every operation in one batch, by chance; in all with ``RAGSTORE_TEST_CELLS=all``."""
    everything = alone(passes)
    pairs = [(operation, failpoint) for operation, passed in passes.items() for failpoint in passed]
    return _chosen(everything, [[cell for cell in everything if cell[:2] == pair] for pair in pairs])


def _chosen(
    everything: list[tuple[str, str, int]], groups: list[list[tuple[str, str, int]]]
) -> list[tuple[str, str, int]]:
    """One of each group, as ``RAGSTORE_TEST_SEED`` has it."""
    if os.environ.get("RAGSTORE_TEST_CELLS") == "all":
        return everything
    seed = os.environ.get("RAGSTORE_TEST_SEED", "1")
    return [random.Random(f"{seed} {group}").choice(group) for group in groups]


def some_cells(cells: Sequence[Cell], n: int) -> list[Cell]:
    """So many of these, as ``RAGSTORE_TEST_SEED`` has it, or all."""
    if os.environ.get("RAGSTORE_TEST_CELLS") == "all":
        return list(cells)
    seed = os.environ.get("RAGSTORE_TEST_SEED", "1")
    return sorted(random.Random(f"{seed} {cells}").sample(cells, n), key=cells.index)
