"""State that the LlamaIndex stores of a collection share in one process: writer, open structs, hashes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from llama_index.core.callbacks.base import global_stack_trace_ids
from llama_index_instrumentation.span import active_span_id

from ragstore.llama.backend import Backend, CurrentCollection
from ragstore.llama.structs import OpenStructs
from ragstore.llama.writer import CollectionWriter
from ragstore.model.collection import Collection
from ragstore.query.caches import AskedQuestions
from ragstore.query.no_hits import Advice


@dataclass(frozen=True, eq=False)
class Shared:
    """The shared state of one collection.

    Programs take the document store from one storage context and the vector store from another. Each store must know
    what the other learned about a document.
    """

    writer: CollectionWriter
    opened: OpenStructs
    prefetch: HashPrefetch


# Only the stores keep the values alive, so that nothing outlives them.
_shared: WeakValueDictionary[tuple[int, int], Shared] = WeakValueDictionary()
_lock = threading.Lock()


def shared_by_faces(backend: Backend, collection: Collection) -> Shared:
    """The shared state of a collection on this pool; the same object at every call."""
    key = (id(backend.pool), collection.collection_id)
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            current = CurrentCollection(collection, AskedQuestions(backend.pool), Advice(backend.pool))
            writer = CollectionWriter(backend, current)
            shared = _shared[key] = Shared(writer, OpenStructs(), HashPrefetch())
        elif collection.epoch > shared.writer.current.get().epoch:
            # It was read after a reconcile; stores from before may use it too.
            shared.writer.current.learn(collection)
        return shared


_COMPARES = frozenset({"refresh_ref_docs", "arefresh_ref_docs"})
_RUNS = ("IngestionPipeline.run-", "IngestionPipeline.arun-")

_VALID_S = 2.0
_PAGES = (1, 64, 1_000)
_MAX_KEPT = 20_000
_USEFUL = 16
"""At least one in so many hashes of a page must be used, or reading pages is not worth it."""

Read = Callable[[str, int], dict[str, str | None]]
"""Reads the hashes of so many documents, in the order of ids, from this id on."""


class HashPrefetch:
    """Hashes of one collection that were read before they are needed; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, str | None] = {}
        self._until = 0.0
        self._page = 0
        self._last = 1
        self._n_used = 0

    def find(self, document_id: str, read: Read) -> dict[str, str | None]:
        """The document's hash, if it is live; read with others in one statement while LlamaIndex compares many."""
        if not _is_comparing():
            return read(document_id, 1)
        with self._lock:
            self._expire()
            if document_id in self._known:
                self._n_used += 1
                return {document_id: self._known[document_id]}
            n_wanted = self._next_page()
        found = read(document_id, n_wanted)
        with self._lock:
            if len(self._known) + len(found) > _MAX_KEPT:
                self._known.clear()
            self._known |= found
        return found

    def forget(self, document_ids: Iterable[str | None] | None = None) -> None:
        """Forget documents that are being written; all, if none is named."""
        with self._lock:
            if document_ids is None:
                self._known.clear()
                return
            for document_id in document_ids:
                self._known.pop(document_id or "", None)

    def _expire(self) -> None:
        now = time.monotonic()
        if now >= self._until:
            self._known.clear()
            self._page, self._last, self._n_used, self._until = 0, 1, 0, now + _VALID_S

    def _next_page(self) -> int:
        """Size of the next page: larger as long as enough hashes of the last one were used."""
        if self._last > 1 and self._n_used * _USEFUL < self._last:
            return 1
        self._last = _PAGES[min(self._page, len(_PAGES) - 1)]
        self._page += 1
        self._n_used = 0
        return self._last


def _is_comparing() -> bool:
    span = active_span_id.get() or ""
    return span.startswith(_RUNS) or not _COMPARES.isdisjoint(global_stack_trace_ids.get())
