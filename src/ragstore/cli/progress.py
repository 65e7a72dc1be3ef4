"""Progress on standard error: a bar or one changing line on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ragstore.cli.output import say
from ragstore.model.report import Listener, Progress

LINE_EVERY_S = 5.0


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Listener | None]:
    """A listener for ``ingest`` that shows progress until the block ends."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as listener:
            yield listener
    else:
        yield lines(in_words)


@contextmanager
def shown_line(in_words: Callable[[Progress], str], *, quiet: bool) -> Iterator[Listener | None]:
    """A listener that shows progress in one changing line on a terminal, in a line every few seconds elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield lines(in_words, say=_overwrite, every_s=0.2)
        _overwrite("")
    else:
        yield lines(in_words)


def lines(
    in_words: Callable[[Progress], str],
    *,
    say: Callable[[str], None] = say,
    every_s: float = LINE_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
) -> Listener:
    """A listener that prints a line if the last one is ``every_s`` old; prints nothing in a shorter call."""
    said_at = clock()

    def listen(progress: Progress) -> None:
        nonlocal said_at
        if clock() - said_at >= every_s:
            said_at = clock()
            say(in_words(progress))

    return listen


def _overwrite(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def in_words(progress: Progress) -> str:
    """``120 of 500 documents, 3 failed, 4,210 chunks, 310 chunks/s, 2 min left``."""
    total = f"{progress.expected or 0:,}" + ("" if progress.is_final else "+")
    words = [f"{progress.done:,} of {total} documents"]
    if progress.failed:
        words.append(f"{progress.failed:,} failed")
    words.append(f"{progress.chunks:,} chunks")
    if progress.seconds > 0:
        words.append(f"{progress.chunks / progress.seconds:,.0f} chunks/s")
    left = seconds_left(progress)
    if left is not None:
        words.append(f"{duration_in_words(left)} left")
    return ", ".join(words)


def seconds_left(progress: Progress) -> float | None:
    """Expected seconds until the end, by the bytes so far; None while the total is unknown or too little is done."""
    too_early = progress.bytes_done * 100 < progress.bytes_expected
    if not progress.is_final or too_early or progress.bytes_done <= 0 or progress.done >= (progress.expected or 0):
        return None
    return progress.seconds * max(progress.bytes_expected - progress.bytes_done, 0) / progress.bytes_done


def duration_in_words(seconds: float) -> str:
    """``45 s``, ``2 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _bar() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis")
    words = TextColumn("{task.description}", markup=False, table_column=one_line)
    columns = (SpinnerColumn(), BarColumn(bar_width=12), words)
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("listing", total=None)

        def listen(progress: Progress) -> None:
            total = max(progress.bytes_expected, 1) if progress.is_final else None
            bar.update(task, description=in_words(progress), completed=progress.bytes_done, total=total)

        yield listen
