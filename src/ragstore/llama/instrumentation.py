"""The running LlamaIndex call, read from LlamaIndex's own instrumentation, and the operation it is part of.

``update_ref_doc`` and the upserts of an ``IngestionPipeline`` delete a document, then split and embed its new version.
If the delete took effect at once, readers would not find the document until then, or ever if the update fails.
``insert`` and a pipeline's run bring all nodes of a document; if one fails before it says that it is done, it is called
again, with other nodes of the same text.
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
    """The id of the running update (``update_ref_doc`` or pipeline upsert), or None.

    It is the name of a trace, or of the span of one pipeline run. None inside a transformation: one that deletes a
    document will not write it again.
    """
    span = active_span_id.get() or ""
    if _OF_A_TRANSFORMATION in span:
        return None
    update = next((trace for trace in global_stack_trace_ids.get() if trace in _UPDATES), None)
    return update or (span if span.startswith(_RUNS) else None)


def is_pipeline_run(name: str | None) -> bool:
    """Whether this id of an update names one run of a pipeline, which has a beginning and an end."""
    return name is not None and name not in _UPDATES


def pipeline_run() -> str | None:
    """The name of the pipeline run that calls, not from within a transformation; or None."""
    span = active_span_id.get() or ""
    return span if span.startswith(_RUNS) else None


def current_insert() -> object | None:
    """The running insert, which brings all nodes of a document, or None; compare with ``is``."""
    # LlamaIndex makes a new list when a trace begins: this list belongs to the one insert_nodes in an insert.
    traces = global_stack_trace_ids.get()
    return None if pipeline_run() or _INSERTS.isdisjoint(traces) else traces


def whole_document_call() -> object | None:
    """The running call that brings all nodes of a document (pipeline run or insert), or None; compare with ``is``."""
    return pipeline_run() or current_insert()


class _Operation(NamedTuple):
    number: int
    begun_in: tuple[int, int]


_numbers = itertools.count(1)
_current: ContextVar[_Operation | None] = ContextVar("ragstore_operation", default=None)


def this_operation() -> int:
    """The number of the operation that calls; begins one if there is none."""
    if current_insert() is not None:
        # Several tasks of one operation may insert at once.
        return own_operation()
    current = _current.get()
    return new_operation() if current is None else current.number


def own_operation() -> int:
    """As ``this_operation``, but begins a new one if that was inherited from another thread or task."""
    current = _current.get()
    return new_operation() if current is None or current.begun_in != thread_and_task() else current.number


def new_operation() -> int:
    """Begin an operation, which later calls are part of; returns its number."""
    current = _Operation(next(_numbers), thread_and_task())
    _current.set(current)
    return current.number


def thread_and_task() -> tuple[int, int]:
    """The current thread and task, in which only one call runs at a time."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), id(task) if task is not None else 0
