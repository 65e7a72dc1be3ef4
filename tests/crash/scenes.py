"""A folder in a collection, and one operation after the other that several workers do to it at once and are killed in.

Each operation comes in batches that several workers share in part: some documents are the first worker's alone, at the
beginning, in the middle and at the end; others are everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import CollectionNotFoundError, DocumentNotFoundError
from ragstore.model.node import VECTOR_STORE, Struct
from ragstore.protocol.structs import StructWriter
from ragstore.settings import Settings
from tests.crash.forked import COLLECTION, TREES_ABOVE, Order, run
from tests.support import children
from tests.support.children import until
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.internals import collection_of, pool_of, trees_above, writer_of
from tests.support.oracle import Change, Oracle, State
from tests.support.parts import execute, postgres_url
from tests.support.segments import FILTER_INDEXES, FORGET, OTHERS, SEGMENTS, SIZES, merge_at_rest, seal

FIRST = ("a1", "ab", "a2", "abc", "a3")
"""Folders of the first worker; those whose name has a b or c are also the second's or third's."""

SECOND, THIRD = ("ab", "abc", "bc"), ("abc", "ab", "bc")
FOLDERS = ("a1", "ab", "a2", "abc", "a3", "bc")
PER_FOLDER = 2
N_SENTENCES = 6
OPTIONS = {"batch_chunks": 4, "lease_ttl_s": 60, "index_min_nodes": 1_000_000}
WITH_INDEX = OPTIONS | {"index_min_nodes": 10}
GRACEFUL_S = 3600.0


@dataclass(frozen=True)
class Work:
    """What the workers do next.

    Args:
        arguments: of each worker, the first one's at the head.
        changes: what then must have happened wholly or not at all.
        again: does what is left of it, as the next user would.
    """

    name: str
    arguments: Sequence[Sequence[Any]]
    changes: Sequence[Change]
    again: Callable[[], object]
    options: Mapping[str, Any] = field(default_factory=dict)


class Scene:
    """The folder, what is live of it, and the judge."""

    def __init__(self, rs: Ragstore, settings: Settings, mongo: Database[dict[str, Any]], folder: Path) -> None:
        self.rs = rs
        self.settings = settings
        self.mongo = mongo
        self.folder = folder
        self.oracle = Oracle(postgres_url(settings), mongo, COLLECTION)
        self.round = 0
        self.untouched = write_documents(folder, {"other.txt": a_text("other", N_SENTENCES)})
        rs.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
        self.live: State = self._written("0", seed="0")
        self.ingest()

    @property
    def state(self) -> State:
        return {**self.untouched, **self.live}

    def order(self, work: str, *arguments: Any, failpoint: str | None = None, **options: Any) -> Order:
        """Args: options: settings of the process, but for those of the scene."""
        own = OPTIONS | options | ({"failpoint": failpoint} if failpoint else {})
        return Order(work, arguments, children.environment(self.settings, **own))

    def ingest(self) -> None:
        self.rs.ingest(self.folder, collection=COLLECTION)

    def settle(self) -> None:
        """Let every grace period end and recover, again while PostgreSQL has not noticed that a worker is gone."""

        def is_settled() -> bool:
            execute(self.settings, "UPDATE ragstore.outbox SET not_before = now()")
            writer_of(self.rs).recoverer.recover()
            return execute(self.settings, PENDING) == [(0,)]

        until(is_settled, what="runs and outbox are empty")

    def _can_be_locked(self) -> bool:
        others = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()"
        return execute(self.settings, f"{others} AND database = {THIS_DATABASE}") == [(0,)]

    # Operations: each prepares the sources, and says what the workers do and what must come of it

    def add(self) -> Work:
        new = self._written(f"{self.round}", seed=f"new {self.round}")
        return self._ingest([*self._kept(), *(Change({}, {i: text}) for i, text in new.items())])

    def update(self) -> Work:
        changes = []
        for document_id, text in self.live.items():
            path = Path(document_id)
            (new,) = write_documents(path.parent, {path.name: an_edited(text, self.round)}).values()
            changes.append(Change({document_id: text}, {document_id: new}))
        return self._ingest(changes)

    def rename(self) -> Work:
        changes = []
        for document_id, text in self.live.items():
            path = Path(document_id)
            new = path.rename(path.with_name(f"{self.round}-{path.name.rpartition('-')[2]}"))
            changes.append(Change({document_id: text}, {str(new): text}))
        return self._ingest(changes)

    def delete(self) -> Work:
        if not self.live:
            self.live = self._written(f"{self.round}", seed=f"new {self.round}")
            self.ingest()
        for document_id in self.live:
            Path(document_id).unlink()
        batches = {name: [i for i in self.live if Path(i).parent.name == name] for name in FOLDERS}
        arguments = [[batches[name] for name in folders] for folders in (FIRST, SECOND, THIRD)]
        changes = [Change({i: text}, {}) for i, text in self.live.items()]
        ids = list(self.live)
        return Work("delete", arguments, changes, lambda: self.rs.delete(*ids, collection=COLLECTION))

    def move(self) -> Work:
        """Move every folder, and the documents after it."""
        changes, moved = [], {name: self.folder / f"{self.round} {name}" for name in FOLDERS}
        sources = {Path(document_id).parent for document_id in self.live}
        of = {folder.name.rpartition(" ")[2]: folder for folder in sources}
        for folder in sources:
            folder.rename(moved[folder.name.rpartition(" ")[2]])
        for document_id, text in self.live.items():
            path = Path(document_id)
            new = moved[path.parent.name.rpartition(" ")[2]] / path.name
            changes.append(Change({document_id: text}, {str(new): text}))
        arguments = [[(str(of[name]), str(moved[name])) for name in names] for names in (FIRST, SECOND, THIRD)]
        return Work("move", arguments, changes, lambda: self._move_again([*of.values()], moved))

    def _move_again(self, sources: Sequence[Path], moved: Mapping[str, Path]) -> None:
        for folder in sources:
            with suppress(DocumentNotFoundError):
                assert not self.rs.move(folder, moved[folder.name.rpartition(" ")[2]], collection=COLLECTION).left.total

    def drop(self) -> Work:
        """Drop the collection; where that was done before, one of the same documents that was made anew."""
        self.rs.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
        self.live, self.untouched = {str(path): path.read_text() for path in sorted(self.folder.rglob("*.txt"))}, {}
        self.ingest()
        self.oracle.assert_visible([], self.live)
        seal(pool_of(self.rs), collection_of(self.rs, COLLECTION))
        database, found = writer_of(self.rs).database, collection_of(self.rs, COLLECTION)
        StructWriter(pool_of(self.rs), database, found, writer_of(self.rs).recoverer).put(
            Struct(COLLECTION, VECTOR_STORE, "{}")
        )
        changes = [Change({i: text}, {}) for i, text in self.live.items()]
        return Work("drop", [[]] * 3, changes, self._drop_again)

    def _drop_again(self) -> None:
        with suppress(CollectionNotFoundError):
            self.rs.drop_collection(COLLECTION)
        left = "SELECT count(*) FROM pg_class WHERE relname ^@ 'data_docs' OR relname ^@ 'seg_'"
        assert execute(self.settings, f"SELECT ({left}), (SELECT count(*) FROM ragstore.collection)") == [(0, 0)]
        assert list(self.mongo["index_store/data"].find({"collection": COLLECTION})) == []

    def seal(self) -> Work:
        """Make a segment of all nodes, beside readers that compare them one by one."""
        execute(self.settings, FORGET)
        work = self._ingest(self._kept())
        return Work(work.name, work.arguments, work.changes, self._ingest_with_index, WITH_INDEX)

    def merge(self) -> Work:
        """Merge three segments into one that is a tree, beside readers of those."""
        execute(self.settings, FORGET)
        pool = pool_of(self.rs)
        ((n_nodes,),) = execute(self.settings, "SELECT count(*) FROM ragstore.data_docs")
        collection = collection_of(self.rs, COLLECTION)
        assert seal(pool, collection, at_once=n_nodes // 3 + 1) == n_nodes
        assert [n_cells for _, n_cells in execute(self.settings, SIZES)] == [0, 0, 0]
        return Work("merge", [[]] * 3, self._kept(), self._merge_again)

    def declare(self) -> Work:
        """Declare filter keys and build their indexes, beside readers that do without."""
        for name, _ in execute(self.settings, FILTER_INDEXES):
            execute(self.settings, f"DROP INDEX ragstore.{name}")
        execute(self.settings, "UPDATE ragstore.collection SET filter_keys = '{}'")
        keys = ["file_name", "file_path"]
        return Work("declare", [keys] * 3, self._kept(), lambda: self._declare_again(keys))

    def recover(self) -> Work:
        """Recover after several who died: runs, old nodes, and entries that are behind."""
        work = self.update()
        for names, failpoint in (
            (["a1"], "published:1"),
            (["ab"], "published:1"),
            (["a2", "abc", "a3"], "published:2"),
        ):
            # Put off, so that the next one who dies does not do it before.
            execute(self.settings, "UPDATE ragstore.outbox SET not_before = now() + interval '1 hour'")
            paths = [str(self.folder / name) for name in names]
            (died,) = run(self.order("ingest", *paths, failpoint=failpoint, grace_s=GRACEFUL_S))
            assert died.killed
        until(self._can_be_locked, what="PostgreSQL has noticed that the last one is gone")
        execute(self.settings, "UPDATE ragstore.outbox SET not_before = now()")
        self.oracle.assert_visible(work.changes, self.untouched)
        self.live = self.oracle.state_of(work.changes)
        return Work("recover", [[]] * 3, self._kept(), writer_of(self.rs).recoverer.recover)

    def _kept(self) -> list[Change]:
        """Nothing may happen to what is live."""
        return [Change({i: text}, {i: text}) for i, text in self.live.items()]

    def _ingest(self, changes: Sequence[Change]) -> Work:
        arguments = [[str(self.folder / name) for name in folders] for folders in (FIRST, SECOND, THIRD)]
        return Work("ingest", arguments, changes, self.ingest)

    def _ingest_with_index(self) -> None:
        assert execute(self.settings, OTHERS) == []
        with ragstore.open(self.settings.model_copy(update=WITH_INDEX)) as rs:
            rs.ingest(self.folder, collection=COLLECTION)
        assert [is_there for _, is_there in execute(self.settings, SEGMENTS)] == [True]

    def _merge_again(self) -> None:
        assert execute(self.settings, OTHERS) == []
        with trees_above(TREES_ABOVE):
            merge_at_rest(pool_of(self.rs), collection_of(self.rs, COLLECTION))
        assert [is_there for _, is_there in execute(self.settings, SEGMENTS)] == [True]
        assert [n_cells > 0 for _, n_cells in execute(self.settings, SIZES)] == [True]

    def _declare_again(self, keys: Sequence[str]) -> None:
        assert self.rs.create_collection(COLLECTION, filter_keys=keys).filter_keys == tuple(keys)
        assert [valid for _, valid in execute(self.settings, FILTER_INDEXES)] == [True] * 2 * len(keys)

    def _written(self, prefix: str, *, seed: str) -> State:
        written: State = {}
        for name in FOLDERS:
            texts = {f"{prefix}-{i}.txt": a_text(f"{seed} {name} {i}", N_SENTENCES) for i in range(PER_FOLDER)}
            written |= write_documents(self.folder / name, texts)
        return written


THIS_DATABASE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
PENDING = "SELECT (SELECT count(*) FROM ragstore.run) + (SELECT count(*) FROM ragstore.outbox)"

OPERATIONS: dict[str, Callable[[Scene], Work]] = {
    "add": Scene.add,
    "update": Scene.update,
    "rename": Scene.rename,
    "move": Scene.move,
    "delete": Scene.delete,
    "drop": Scene.drop,
    "seal": Scene.seal,
    "merge": Scene.merge,
    "declare": Scene.declare,
    "recover": Scene.recover,
}


@contextmanager
def a_scene(settings: Settings, mongo: Database[dict[str, Any]], folder: Path) -> Iterator[Scene]:
    with ragstore.open(settings.model_copy(update=OPTIONS)) as rs:
        yield Scene(rs, settings, mongo, folder)
