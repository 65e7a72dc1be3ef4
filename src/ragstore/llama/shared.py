"""What all faces of a collection in one process share."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakValueDictionary

from ragstore.llama.backend import Backend, CurrentCollection
from ragstore.llama.hashes import HashesAhead
from ragstore.llama.structs import OpenStructs
from ragstore.llama.writing import Writing
from ragstore.model.collection import Collection
from ragstore.query.known import AskedQuestions
from ragstore.query.no_hits import Advice


@dataclass(frozen=True, eq=False)
class Shared:
    """Programs take the document store from one context and the vector store from another: what one hears of a
    document the other must know.
    """

    writing: Writing
    opened: OpenStructs
    ahead: HashesAhead


# Kept by the faces alone, so that nothing outlives them.
_shared: WeakValueDictionary[tuple[int, int], Shared] = WeakValueDictionary()
_lock = threading.Lock()


def shared_by_faces(backend: Backend, collection: Collection) -> Shared:
    """The one of a collection on one pool."""
    key = (id(backend.pool), collection.collection_id)
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            current = CurrentCollection(collection, AskedQuestions(backend.pool), Advice(backend.pool))
            writing = Writing(backend, current)
            shared = _shared[key] = Shared(writing, OpenStructs(), HashesAhead())
        elif collection.epoch > shared.writing.current.get().epoch:
            # Read after a reconcile; who still has faces of before may go on with it too.
            shared.writing.current.learn(collection)
        return shared
