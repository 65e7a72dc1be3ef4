"""The rows of the table of goals, and a run through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ragstore.errors import ModelMissingError
from tests.benchmarks import (
    audits,
    cold_start,
    deletion,
    edits,
    growth,
    machine,
    pipeline,
    queries,
    recall,
    storage,
    unchanged,
)
from tests.benchmarks.figures import Line, Results

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

Measure = Callable[["Workbench"], list[Line]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table of goals."""

    number: int
    work: str
    measure: Measure


# In the order in which they run: what grows or wears the large collection comes after what asks it.
ROWS = (
    Row(1, "storage path into an empty collection", storage.into_empty),
    Row(3, "whole pipeline on real files", pipeline.measure),
    Row(4, "unchanged re-run", unchanged.measure),
    Row(5, "small changes", edits.measure),
    Row(9, "deletion of a long document", deletion.measure),
    Row(6, "queries", queries.measure),
    Row(7, "recall, with filters", recall.measure),
    Row(2, "storage path into a large collection", storage.into_large),
    Row(7, "recall, with filters on declared keys", recall.measure_declared),
    Row(10, "verify, and peak memory", audits.measure),
    Row(8, "process start to first answer", cold_start.measure),
)
NUMBERS = tuple(sorted({row.number for row in ROWS}))


def run(bench: Workbench, wanted: Collection[int], *, curves: bool) -> Results:
    """Measure these rows.

    Args:
        curves: measure what the picture shows too.
    """
    begun = time.monotonic()
    lines: list[Line] = []
    if len(wanted) < len(NUMBERS):
        others = ", ".join(str(number) for number in NUMBERS if number not in wanted)
        bench.left_out.append(f"rows {others}: not asked for")
    facts = machine.described(bench)
    drawn = growth.measure(bench) if curves else []
    for row in ROWS:
        if row.number not in wanted:
            continue
        bench.say(f"row {row.number}: {row.work}")
        try:
            lines += row.measure(bench)
        except ModelMissingError as error:
            bench.left_out.append(f"row {row.number}: {error.message}")
    return Results(
        date=datetime.now(UTC).date().isoformat(),
        machine=facts,
        rounds=bench.rounds,
        seconds=time.monotonic() - begun,
        lines=sorted(lines, key=lambda line: line.row),
        curves=drawn,
        left_out=list(dict.fromkeys(bench.left_out)),
    )
