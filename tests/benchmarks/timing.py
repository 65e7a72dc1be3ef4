"""Seconds, measured."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

Answer = TypeVar("Answer")


def seconds(work: Callable[[], object]) -> float:
    """How long it takes; garbage of what was before is not counted."""
    return timed(work)[0]


def timed(work: Callable[[], Answer]) -> tuple[float, Answer]:
    """How long it takes, and what it returns."""
    gc.collect()
    begun = time.perf_counter()
    answer = work()
    return time.perf_counter() - begun, answer


def in_turn(rounds: int, *works: Callable[[], float]) -> list[list[float]]:
    """What each work measures, one after the other in every round, so that what else the machine does meets all.

    Every second round goes backwards.
    """
    measured: list[list[float]] = [[] for _ in works]
    for i in range(rounds):
        order = range(len(works)) if i % 2 == 0 else range(len(works) - 1, -1, -1)
        for j in order:
            measured[j].append(works[j]())
    return measured


def percentile(values: Iterable[float], percent: float) -> float:
    """Of some values, between neighbours where need be."""
    return float(np.percentile(list(values), percent))


def per_second(n_threads: int, works: Sequence[Callable[[], object]]) -> float:
    """How many of these are done in a second by so many threads."""
    with ThreadPoolExecutor(n_threads) as threads:
        begun = time.perf_counter()
        for future in [threads.submit(work) for work in works]:
            future.result()
        return len(works) / (time.perf_counter() - begun)
