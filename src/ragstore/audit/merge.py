"""Two ordered streams side by side, in constant memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

L = TypeVar("L")
R = TypeVar("R")
T = TypeVar("T")


def ahead(pages: Iterator[T]) -> Iterator[T]:
    """The same pages, each read in a thread while the one before is worked on; of few, two at most, none is."""
    first, second = next(pages, None), next(pages, None)
    if first is not None:
        yield first
    if second is None:
        return
    yield second
    with ThreadPoolExecutor(1, thread_name_prefix="ragstore-scan") as reader:
        coming = reader.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = reader.submit(next, pages, None)
            yield page


def aligned(
    left: Iterator[list[L]],
    right: Iterator[list[R]],
    *,
    left_key: Callable[[L], str] | None = None,
    right_key: Callable[[R], str] | None = None,
) -> Iterator[tuple[list[L], list[R]]]:
    """Pieces of both streams that cover the same range of keys, one after the other.

    Args:
        left: pages in ascending order of keys; Python orders strings as both databases order their UTF-8 bytes.
        left_key: of an item; the item itself where none is given.
    """
    left_rest: list[L] = []
    right_rest: list[R] = []
    while True:
        left_rest = left_rest or next(left, [])
        right_rest = right_rest or next(right, [])
        if not left_rest and not right_rest:
            return
        last = min(_last(rest, key) for rest, key in ((left_rest, left_key), (right_rest, right_key)) if rest)
        n_left, n_right = _upto(left_rest, last, left_key), _upto(right_rest, last, right_key)
        yield left_rest[:n_left], right_rest[:n_right]
        left_rest, right_rest = left_rest[n_left:], right_rest[n_right:]


def _last(items: list[Any], key: Callable[[Any], str] | None) -> str:
    return str(key(items[-1]) if key else items[-1])


def _upto(items: list[Any], last: str, key: Callable[[Any], str] | None) -> int:
    return bisect_right(items, last, key=key) if key else bisect_right(items, last)
