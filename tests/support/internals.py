"""The one door to what ragstore keeps to itself: its private names, and what tests put in the place of its parts.

``tests/unit/test_one_door.py`` finds who goes in elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ragstore.telemetry import failpoint
from ragstore.telemetry.failpoint import Failpoint

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

    from ragstore.app import Ragstore
    from ragstore.app.models import Models
    from ragstore.app.writer import Writer
    from ragstore.ingest.prefetch import MemoryBudget
    from ragstore.llama.backend import Backend
    from ragstore.model.collection import Collection
    from ragstore.model.node import Node
    from ragstore.model.run import PlannedRevision
    from ragstore.mongo.nodes import NodeStore
    from ragstore.postgres.change import Change
    from ragstore.postgres.ledger import Ledger
    from ragstore.postgres.pool import PostgresPool


def replace(owner: object, name: str, value: Any) -> None:
    """Put another value in the place of one that is there, for good."""
    assert hasattr(owner, name), f"{owner} has no {name} that could be replaced"
    setattr(owner, name, value)


@contextmanager
def replaced(owner: object, name: str, value: Any) -> Iterator[None]:
    """The same for the length of the block."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, value)
        yield


# What a store and its parts are made of


def pool_of(store: Ragstore) -> PostgresPool:
    return store._pool


def writer_of(store: Ragstore) -> Writer:
    return store._writer()


def collection_of(store: Ragstore, name: str) -> Collection:
    return store._collection(name)


def backend_of(store: Ragstore) -> Backend:
    return store._backend()


def models_of(store: Ragstore) -> Models:
    return store._models


def pool_of_ledger(ledger: Ledger) -> PostgresPool:
    return ledger._pool


def mongo_bodies(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """The documents that are written to MongoDB for these nodes."""
    from ragstore.mongo.nodes import _body

    return [_body(node) for node in nodes]


def bytes_held(budget: MemoryBudget) -> int:
    return budget._acquired


# Failpoints


def failpoints_hit() -> Mapping[Failpoint, int]:
    """How often the armed one was passed so far; goes on counting."""
    return failpoint._hits


def replace_reached(reached: Callable[[Failpoint], None]) -> None:
    """Have this called wherever the program passes a failpoint."""
    for module in _modules_with_failpoints():
        replace(module, "reached", reached)


@contextmanager
def failpoints_watched(reached: Callable[[Failpoint], None]) -> Iterator[None]:
    """The same for the length of the block."""
    with ExitStack() as stack:
        for module in _modules_with_failpoints():
            stack.enter_context(replaced(module, "reached", reached))
        yield


def _modules_with_failpoints() -> list[Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith("ragstore.")]
    found = [module for module in modules if vars(module).get("reached") is failpoint.reached]
    assert len(found) > 1, "no module passes failpoints"
    return found


# Sizes, so that little takes several steps and a process can die between them


def in_small_steps() -> None:
    """Of what is written and looked through."""
    from ragstore.audit import documents as audited_documents
    from ragstore.audit import nodes as audited_nodes
    from ragstore.backup import packs
    from ragstore.mongo import nodes
    from ragstore.postgres import change
    from ragstore.protocol import drop

    replace(drop, "_DOCUMENTS_AT_ONCE", 3)
    replace(nodes, "BATCH_NODES", 3)
    replace(nodes, "BATCH_IDS", 3)
    replace(audited_nodes, "_AT_ONCE", 7)
    replace(audited_documents, "_AT_ONCE", 2)
    replace(change, "_IDS_PER_ITEM", 3)
    replace(packs, "PACK_BYTES", 6_000)


@contextmanager
def in_small_steps_of_backups() -> Iterator[None]:
    """Packs of a few rows, for the length of the block."""
    from ragstore.backup import packs

    with replaced(packs, "PACK_BYTES", 6_000):
        yield


def transfer_in_small_steps(nodes_at_once: int) -> None:
    """Of imports and exports."""
    from ragstore.transfer import adoption, export, import_, loader

    replace(import_, "NODES_AT_ONCE", nodes_at_once)
    replace(adoption, "NODES_AT_ONCE", nodes_at_once)
    replace(loader, "_DOCUMENTS_AT_ONCE", 2)
    replace(export, "_BUFFER_BYTES", 100)


def grow_trees_above(components: int) -> None:
    """Segments of more components of vectors get a tree, where otherwise two million are none."""
    from ragstore.postgres import segments

    replace(segments, "_FLAT_COMPONENTS", components)


@contextmanager
def trees_above(components: int) -> Iterator[None]:
    """The same for the length of the block."""
    from ragstore.postgres import segments

    with replaced(segments, "_FLAT_COMPONENTS", components):
        yield


def entries_that_always_fit(patch: pytest.MonkeyPatch, n: int) -> None:
    from ragstore.postgres import change

    patch.setattr(change, "_ENTRY_ALWAYS_FITS", n)


def searches_of_few(patch: pytest.MonkeyPatch, n: int) -> None:
    """So many nodes that a filter lets through are compared one by one."""
    from ragstore.postgres import search

    patch.setattr(search, "_MAX_FEW", n)


def searches_compare_all_of(patch: pytest.MonkeyPatch, n: int) -> None:
    """So many nodes that have a pair of the metadata are all compared, and more are looked for in the trees."""
    from ragstore.postgres import search

    patch.setattr(search, "_ALWAYS_FEW", n)
    patch.setattr(search, "_SHARE_OF_FEW", 0)


@contextmanager
def keyword_searches_rank(n: int) -> Iterator[None]:
    """So many nodes at most, in statements that are made in the block."""
    from ragstore.postgres import search

    with replaced(search, "_MAX_RANKED", n):
        search._statement.cache_clear()
        yield
    search._statement.cache_clear()


# Times


def indexers_rest_after(patch: pytest.MonkeyPatch, seconds: float) -> None:
    from ragstore.protocol import indexing

    patch.setattr(indexing, "_REST_S", seconds)


# Steps that tests go into


@contextmanager
def seals_replaced(indexer: object, seal: Callable[..., bool]) -> Iterator[None]:
    with replaced(indexer, "_seal", seal):
        yield


def before_publishing(call: Callable[[], None]) -> None:
    """Have this called before each publication."""
    from ragstore.protocol.publish import Publisher

    original = Publisher._publish

    def publish(self: Publisher, *arguments: Any) -> Any:
        call()
        return original(self, *arguments)

    replace(Publisher, "_publish", publish)


def before_writing(call: Callable[[NodeStore, Cursor, Collection, Sequence[PlannedRevision]], None]) -> None:
    """Have this called in the transaction that publishes, before it writes."""
    from ragstore.protocol.publish import Publisher

    original = Publisher._write

    def write(self: Publisher, change: Change, revisions: Any, *arguments: Any) -> None:
        call(self._nodes, change.cursor, change.collection, revisions)
        original(self, change, revisions, *arguments)

    replace(Publisher, "_write", write)


def before_copying_directly(call: Callable[[Cursor], None]) -> None:
    """Have this called before the rows of a direct write are copied."""
    from ragstore.postgres.change import Change

    original = Change.copy_rows

    def copy_rows(self: Change, rows: Sequence[bytes]) -> None:
        call(self.cursor)
        original(self, rows)

    replace(Change, "copy_rows", copy_rows)
