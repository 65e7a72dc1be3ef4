"""What LlamaIndex is doing when it calls, as its own instrumentation says.

``update_ref_doc`` and the upserts of an ``IngestionPipeline`` delete a document, then cut and embed its new version.
Meanwhile nobody would find it, and for good where they fail. ``insert`` and a pipeline's run bring all nodes of a
document; where they fail before they say so, they are called again with other nodes of the same text.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextvars import ContextVar
from typing import NamedTuple

from llama_index.core.callbacks.base import global_stack_trace_ids
from llama_index_instrumentation.span import active_span_id

_UPDATES = frozenset({"update_ref_doc", "aupdate_ref_doc"})
_INSERTS = frozenset({"insert", "ainsert"})
_RUNS = ("IngestionPipeline.run-", "IngestionPipeline.arun-")
_OF_A_TRANSFORMATION = ".__call__-"


def current_update() -> str | None:
    """What the caller is part of, if that writes anew what it deletes: a trace, or a span of one pipeline's run.

    A transformation that deletes a document means it.
    """
    span = active_span_id.get() or ""
    if _OF_A_TRANSFORMATION in span:
        return None
    update = next((trace for trace in global_stack_trace_ids.get() if trace in _UPDATES), None)
    return update or (span if span.startswith(_RUNS) else None)


def is_pipeline_run(name: str | None) -> bool:
    """Whether that is one run of a pipeline, with a beginning and an end of its own."""
    return name is not None and name not in _UPDATES


def pipeline_run() -> str | None:
    """The pipeline's run that the caller is part of, outside of its transformations."""
    span = active_span_id.get() or ""
    return span if span.startswith(_RUNS) else None


def current_insert() -> object | None:
    """The insert that the caller is part of, which brings all nodes of a document; compare by ``is``."""
    # LlamaIndex makes a new list where a trace begins: this one is that of the one insert_nodes in an insert.
    traces = global_stack_trace_ids.get()
    return None if pipeline_run() or _INSERTS.isdisjoint(traces) else traces


def whole_document_call() -> object | None:
    """The call that the caller is part of, if it brings all nodes of a document; compare by ``is``."""
    return pipeline_run() or current_insert()


class _Operation(NamedTuple):
    number: int
    begun_in: tuple[int, int]


_numbers = itertools.count(1)
_current: ContextVar[_Operation | None] = ContextVar("ragstore_operation", default=None)


def this_operation() -> int:
    """The operation that the caller is part of."""
    if current_insert() is not None:
        # Several tasks may insert at once.
        return own_operation()
    current = _current.get()
    return new_operation() if current is None else current.number


def own_operation() -> int:
    """The same, unless it was only inherited from the thread or task that started this one."""
    current = _current.get()
    return new_operation() if current is None or current.begun_in != thread_and_task() else current.number


def new_operation() -> int:
    """Begin an operation: calls from here on are part of it."""
    current = _Operation(next(_numbers), thread_and_task())
    _current.set(current)
    return current.number


def thread_and_task() -> tuple[int, int]:
    """The thread and the task of the caller, who is in one call at a time there."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), id(task) if task is not None else 0
