"""Which calls of LlamaIndex code belong together: a number that follows them into tasks and threads.

A thread is not enough, because ``use_async`` adds nodes in tasks of another thread; neither is what tasks inherit,
because several of them may begin operations of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextvars import ContextVar
from typing import NamedTuple

from ragstore.llama.rewriting import inserting


class _Operation(NamedTuple):
    number: int
    begun_in: tuple[int, int]


_numbers = itertools.count(1)
_current: ContextVar[_Operation | None] = ContextVar("ragstore_operation", default=None)


def this_operation() -> int:
    """The operation that the caller is part of."""
    if inserting() is not None:
        # Several tasks may insert at once.
        return announcing_operation()
    current = _current.get()
    return new_operation() if current is None else current.number


def announcing_operation() -> int:
    """The same, unless it was only inherited from the thread or task that started this one."""
    current = _current.get()
    return new_operation() if current is None or current.begun_in != place() else current.number


def new_operation() -> int:
    """Begin an operation: calls from here on are part of it."""
    current = _Operation(next(_numbers), place())
    _current.set(current)
    return current.number


def place() -> tuple[int, int]:
    """The thread and the task of the caller, who is in one call at a time there."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), id(task) if task is not None else 0
