from __future__ import annotations

import threading
from collections.abc import Iterator

from ragstore.errors import ParseError
from ragstore.ingest.pipeline import Batch, batches
from ragstore.ingest.prefetch import Outcome
from ragstore.model.chunk import Chunk, ParsedDocument
from ragstore.model.document import SourceItem


def an_outcome(name: str, n_chunks: int = 1, n_bytes: int = 10) -> Outcome:
    chunks = [Chunk(f"{name} {i}", 0, 1) for i in range(n_chunks)]
    return Outcome(SourceItem(name, name, 1), ParsedDocument("hash", chunks, 1), n_bytes)


def a_failure(name: str) -> Outcome:
    return Outcome(SourceItem(name, name, 1), ParseError("is empty", hint="fill it"), 0)


def names(batch: Batch) -> list[str]:
    return [each.item.document_id for each in batch.parsed] + [each.item.document_id for each in batch.failures]


def of(outcomes: list[Outcome | None], max_chunks: int = 3, max_bytes: int = 1000) -> list[list[str]]:
    found = batches(outcomes, max_chunks=max_chunks, max_bytes=max_bytes, is_idle=lambda: False)
    return [names(batch) for batch in found]


def test_a_batch_is_full_by_its_chunks_and_no_document_is_divided() -> None:
    outcomes = [an_outcome("a", 2), an_outcome("b", 2), None, an_outcome("c", 7), an_outcome("d")]
    assert of(outcomes) == [["a", "b"], ["c"], ["d"]]


def test_a_batch_is_full_by_its_bytes() -> None:
    outcomes = [an_outcome(name, n_bytes=600) for name in "abc"]
    assert of([*outcomes], max_chunks=100) == [["a", "b"], ["c"]]


def test_failures_fill_a_batch_too() -> None:
    assert of([a_failure(name) for name in "abcd"]) == [["a", "b", "c"], ["d"]]
    assert of([]) == of([None]) == []


def test_a_batch_that_is_not_full_goes_when_nothing_else_is_stored() -> None:
    waiting = threading.Event()

    def slow() -> Iterator[Outcome | None]:
        yield an_outcome("a")
        for _ in range(1_000):
            waiting.wait(0.01)
            yield None
        raise AssertionError("it waits for ever")

    batch = next(batches(slow(), max_chunks=100, max_bytes=1000, is_idle=lambda: True))
    assert names(batch) == ["a"]


def test_a_batch_that_is_not_full_waits_while_others_are_stored() -> None:
    is_asked = threading.Event()

    def is_idle() -> bool:
        is_asked.set()
        return False

    def slow() -> Iterator[Outcome | None]:
        yield an_outcome("a")
        while not is_asked.wait(0.01):
            yield None
        yield an_outcome("b")

    assert [names(b) for b in batches(slow(), max_chunks=100, max_bytes=1000, is_idle=is_idle)] == [["a", "b"]]
