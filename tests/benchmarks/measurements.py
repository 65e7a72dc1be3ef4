"""Timers, series of measured values, the goals they are held to, and the results of a run."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Answer = TypeVar("Answer")
Ask = Callable[[int], object]
"""Asks the n-th question."""

_PUBLISHING = "ragstore.protocol.publish"


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity, measured several times."""

    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half of the distance between smallest and largest, as a share of the median."""
        return (max(self.values) - min(self.values)) / 2 / abs(self.median) if self.median else 0.0

    def __str__(self) -> str:
        shown = f"{number(self.median)} {self.unit}".rstrip()
        return f"{shown} ±{self.spread:.0%}" if len(self.values) > 1 else shown

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "unit": self.unit,
            "median": rounded(self.median),
            "spread": rounded(self.spread),
            "values": [rounded(value) for value in self.values],
        }


def series(unit: str, values: Sequence[float]) -> Series:
    """Values of one quantity."""
    return Series(unit, tuple(values))


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a ratio or a figure.

    Args:
        text: as the table shows it, e.g. ``≥ 0.7 × raw``.
        value: what was reached.
    """

    text: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the bound is kept."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"text": self.text, "value": rounded(self.value), "limit": self.limit, "met": self.met}


def at_least(what: str, value: float, limit: float) -> Goal:
    """A figure of its own that must not be smaller."""
    return Goal(f"{what} ≥ {number(limit)}".lstrip(), value, limit)


def at_most(what: str, value: float, limit: float) -> Goal:
    """A figure of its own that must not be larger."""
    return Goal(f"{what} ≤ {number(limit)}".lstrip(), value, limit, at_least=False)


def rate_times(ours: Series, other: Series, factor: float, name: str) -> Goal:
    """Our rate is at least so many times the other's."""
    return Goal(f"≥ {factor:g} × {name}", ours.median / other.median, factor)


def time_times(ours: Series, other: Series, factor: float, name: str) -> Goal:
    """Our time is at most so many times the other's."""
    return Goal(f"≤ {factor:g} × {name}", ours.median / other.median, factor, at_least=False)


def times_faster(ours: Series, other: Series, factor: float, name: str) -> Goal:
    """The other takes at least so many times our time."""
    return Goal(f"≥ {factor:g} × faster than {name}", other.median / ours.median, factor)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Args:
        row: number in the table of goals.
        work: what was done.
        notes: what a reader must know to read the figures right.
    """

    row: int
    work: str
    ours: Series
    plain: Series | None = None
    raw: Series | None = None
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "row": self.row,
            "work": self.work,
            "ours": self.ours.as_dict(),
            "plain": self.plain and self.plain.as_dict(),
            "raw": self.raw and self.raw.as_dict(),
            "goals": [goal.as_dict() for goal in self.goals],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Curve:
    """A cost against corpus size, for the picture.

    Args:
        points: who → (nodes, median) pairs.
    """

    title: str
    unit: str
    points: dict[str, list[tuple[int, float]]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "unit": self.unit,
            "points": {who: [[n, rounded(value)] for n, value in pairs] for who, pairs in self.points.items()},
        }


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run of the bench.

    Args:
        machine: what it ran on, in words; no names of hosts.
        left_out: what was not measured, and why.
    """

    date: str
    machine: dict[str, str]
    rounds: int
    seconds: float
    lines: list[Line] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def missed(self) -> int:
        """How many goals were missed."""
        return sum(not goal.met for line in self.lines for goal in line.goals)

    @property
    def goals(self) -> int:
        """How many goals were looked at."""
        return sum(len(line.goals) for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """The shape of the JSON file."""
        return {
            "date": self.date,
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "lines": [line.as_dict() for line in self.lines],
            "curves": [curve.as_dict() for curve in self.curves],
            "left_out": self.left_out,
        }


def number(value: float) -> str:
    """Three figures that matter: ``12,345``, ``123``, ``1.23``, ``0.0123``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rounded(value: float) -> float:
    """Six figures that matter."""
    return float(f"{value:.6g}")


def seconds(work: Callable[[], object]) -> float:
    """Seconds that some work takes, without collecting earlier garbage."""
    return timed(work)[0]


def timed(work: Callable[[], Answer]) -> tuple[float, Answer]:
    """Seconds that some work takes, and what it returns."""
    gc.collect()
    begun = time.perf_counter()
    answer = work()
    return time.perf_counter() - begun, answer


def in_turn(rounds: int, *works: Callable[[], float]) -> list[list[float]]:
    """The values that each work measures, one work after the other in every round, so that all meet the same machine.

    Every second round goes backwards.
    """
    measured: list[list[float]] = [[] for _ in works]
    for i in range(rounds):
        order = range(len(works)) if i % 2 == 0 else range(len(works) - 1, -1, -1)
        for j in order:
            measured[j].append(works[j]())
    return measured


def percentile(values: Iterable[float], percent: float) -> float:
    """Percentile of some values, interpolated."""
    return float(np.percentile(list(values), percent))


def per_second(n_threads: int, works: Sequence[Callable[[], object]]) -> float:
    """Works done per second by so many threads."""
    with ThreadPoolExecutor(n_threads) as threads:
        begun = time.perf_counter()
        for future in [threads.submit(work) for work in works]:
            future.result()
        return len(works) / (time.perf_counter() - begun)


def milliseconds_of_each(asked: Sequence[Ask], n_questions: int) -> list[list[float]]:
    """Milliseconds of each question to each of these, in every order, because the later ones find warm caches.

    Returns:
        a list of ``n_questions`` values for each of ``asked``.
    """
    taken: list[list[float]] = [[] for _ in asked]
    orders = itertools.cycle(itertools.permutations(range(len(asked))))
    for i in range(n_questions):
        for j in next(orders):
            begun = time.perf_counter()
            asked[j](i)
            taken[j].append((time.perf_counter() - begun) * 1_000)
    return taken


@contextmanager
def publishing_seconds() -> Iterator[list[float]]:
    """Seconds that each run took in both stores, read from the protocol's log while the block runs."""
    logger, taken = logging.getLogger(_PUBLISHING), []

    class _Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields = getattr(record, "fields", {})
            if fields.get("action") == "publish":
                taken.append(float(fields["seconds"]))

    listener = _Listener()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield taken
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate
