"""Operations in processes of their own, forked from one that has imported everything, so that they start at once.

Documents are parsed in the operation's own process, and get vectors of no meaning: a parser's start and a model's would
take longer than all the rest, and what they do is none of both stores' business. ``child.py`` and the soak have real ones.
"""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import ragstore
from ragstore.app import Ragstore, backups
from ragstore.app.backups import Wanted
from ragstore.embedding import wordllama_model
from ragstore.errors import CollectionNotFoundError, DocumentNotFoundError, RefusedError
from ragstore.ingest import parse_process, pipeline
from ragstore.ingest.parse_child import member_key
from ragstore.ingest.parse_connection import ParseLimits
from ragstore.ingest.parse_process import Members
from ragstore.ingest.splitting import split
from ragstore.model.chunk import ParsedDocument
from ragstore.model.document import SourceItem
from ragstore.protocol.indexing import merge_all
from ragstore.sources.bounds import read_path
from ragstore.sources.containers import Walk, open_container
from ragstore.sources.file_bytes import content_hash, read_bytes
from ragstore.sources.members import Room
from ragstore.sources.raw import Choices
from ragstore.sources.readers import ReadText, read
from ragstore.telemetry.failpoint import Failpoint
from tests.support.forkserver import a_process, context
from tests.support.internals import (
    collection_of,
    failpoints_hit,
    grow_trees_above,
    in_small_steps,
    pool_of,
    replace,
    replace_reached,
    writer_of,
)
from tests.support.llama_faces import HashEmbedding, a_document, a_splitter

COLLECTION = "docs"
TREES_ABOVE = 256 * 20
"""Components of vectors in a segment."""

_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Order:
    """What one process does.

    Args:
        work: a name in ``WORKS``, and what to call it with.
        changed: names in ``unprotected.py`` of what is different in this process.
        stops_at: a failpoint where it stands still when it gets there first, as by SIGSTOP from outside.
        watched: count every failpoint that is passed.
    """

    work: str
    arguments: Sequence[Any] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    changed: Sequence[str] = ()
    stops_at: str | None = None
    watched: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Args:
        hits: failpoints that it passed, as far as they were counted.
    """

    killed: bool
    result: Any = None
    hits: Counter[str] = field(default_factory=Counter)


class Child:
    """One process; ``end`` waits for it."""

    def __init__(self, order: Order, barrier: Any = None) -> None:
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = a_process(_run, order, sender, barrier)
        self._process.start()
        sender.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def is_running(self) -> bool:
        return self._process.is_alive()

    def is_stopped(self) -> bool:
        """Fails where it is not there any more."""
        assert self._process.is_alive(), "it ended by itself"
        with open(f"/proc/{self.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    def end(self, timeout_s: float = 60.0) -> Outcome:
        """Fails unless it ended well or by SIGKILL."""
        try:
            outcome = self._receiver.recv() if self._receiver.poll(timeout_s) else "it does not end"
        except EOFError:
            outcome = None
        self._process.join(timeout_s)
        if outcome is None and self._process.exitcode == -signal.SIGKILL:
            return Outcome(killed=True)
        assert isinstance(outcome, Outcome), f"child ended with {self._process.exitcode}: {outcome}"
        return outcome

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._receiver.close()


@contextmanager
def started(orders: Sequence[Order], *, at_once: bool = True) -> Iterator[list[Child]]:
    """These processes, set off at the same moment, or the first one first; none outlives the block."""
    barrier = context.Barrier(len(orders)) if at_once and len(orders) > 1 else None
    children: list[Child] = []
    try:
        for order in orders:
            children.append(Child(order, barrier))
        yield children
    finally:
        for child in children:
            child.kill()


def run(*orders: Order, at_once: bool = True) -> list[Outcome]:
    """Let these run at the same time to their ends, set off as ``started`` says."""
    with started(orders, at_once=at_once) as children:
        return [child.end() for child in children]


# In the child


def _run(order: Order, sender: Any, barrier: Any) -> None:
    os.environ.clear()
    os.environ.update(order.env)
    replace(parse_process, "ParseProcess", InThisProcess)
    # Batches by their sizes alone: which failpoints are passed, and how many batches are under way, must not depend on
    # how busy the machine is.
    replace(pipeline, "MAX_WAIT_S", math.inf)
    in_small_steps()
    hits: Mapping[Failpoint, int] = _watched() if order.watched else failpoints_hit()
    if order.stops_at is not None:
        _stop_at(order.stops_at)
    try:
        for name in order.changed:
            from tests.crash import unprotected

            unprotected.CHANGES[name]()
        with ragstore.open() as rs:
            if barrier is not None:
                barrier.wait(60)
            result = WORKS[order.work](rs, *order.arguments)
    except BaseException:  # edge of the process: the parent must know
        sender.send(traceback.format_exc())
        sys.exit(1)
    sender.send(Outcome(False, result, Counter({str(name): n for name, n in hits.items()})))


def stand_still() -> None:
    """Stop, as by SIGSTOP from outside, at this very place.

    The signal goes to this thread: one to the process is handled by any of its threads, and on a busy machine this one
    would be far ahead by then, in the middle of a transaction that holds up everybody.
    """
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _watched() -> Counter[Failpoint]:
    passed: Counter[Failpoint] = Counter()

    def reached(name: Failpoint) -> None:
        passed[name] += 1

    replace_reached(reached)
    return passed


def _stop_at(name: str) -> None:
    left = [name]
    lock = threading.Lock()

    def reached(passed: Failpoint) -> None:
        with lock:
            if passed in left:
                left.remove(passed)
                stand_still()

    replace_reached(reached)


class InThisProcess:
    """Parses without a process of its own."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits

    def start(self) -> None:
        """Nothing to start."""

    def interrupt(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to free."""

    def parse(self, item: SourceItem, members: Members) -> ParsedDocument:
        data = read_bytes(item.source_uri, self._limits.bounds, max_bytes=_MAX_BYTES)
        name = os.path.basename(read_path(item.source_uri))
        container = open_container(io.BytesIO(data), name, Room(max_member_bytes=_MAX_BYTES), Choices())
        if container is None:
            return self._document(read(data, name), content_hash(data))
        container.check()
        walk, known = Walk(container, item.document_id), set(members.known())
        for leaf in walk.leaves():
            member = SourceItem(leaf.document_id, item.source_uri, leaf.size, item.mtime_ns, within=item)
            is_known = member_key(leaf.document_id, leaf.content_hash) in known
            read_now = None if is_known or leaf.read is None else self._document(leaf.read(), leaf.content_hash)
            members.add(member, leaf.container_id, read_now)
        return self._document(walk.own_text() or ReadText(""), content_hash(data))

    def _document(self, text: ReadText, hash_of_bytes: str) -> ParsedDocument:
        chunks = split(text, self._limits.chunking) if text.text else []
        return ParsedDocument(hash_of_bytes, chunks, len(text.text), text.metadata, text.notes)


class _Model:
    """Vectors that say nothing, of the default model's length; readers here ask for everything."""

    name = "wordllama"
    dim = 256

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.random.default_rng(len(texts)).normal(size=(len(texts), self.dim)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def embed_query(self, text: str) -> np.ndarray:
        vector: np.ndarray = self.embed_documents([text])[0]
        return vector


# What it may be told to do


def ingest(rs: Ragstore, *paths: str) -> dict[str, Any]:
    # Reading the real one would take as long as all the rest.
    replace(wordllama_model, "load", lambda _: _Model())
    return rs.ingest(*paths, collection=COLLECTION).as_dict()


def delete(rs: Ragstore, *batches: Sequence[str]) -> int:
    return sum(rs.delete(*batch, collection=COLLECTION) for batch in batches)


def move(rs: Ragstore, *paths: tuple[str, str]) -> None:
    for old, new in paths:
        with suppress(DocumentNotFoundError):  # another worker has moved it
            rs.move(old, new, collection=COLLECTION)


def drop(rs: Ragstore) -> int | None:
    """How many documents went with it; None where another one dropped it."""
    try:
        return rs.drop_collection(COLLECTION)
    except CollectionNotFoundError:
        return None


def declare(rs: Ragstore, *keys: str) -> None:
    rs.create_collection(COLLECTION, filter_keys=keys)


def merge(rs: Ragstore) -> None:
    """Merge segments as at rest, into trees though they are small."""
    grow_trees_above(TREES_ABOVE)
    merge_all(pool_of(rs), collection_of(rs, COLLECTION), memory_mb=64, at_rest=True)


def recover(rs: Ragstore) -> None:
    """What everybody does who is about to write."""
    writer_of(rs)


def repair(rs: Ragstore) -> dict[str, Any] | None:
    """What was repaired; None where another one is at it."""
    try:
        return rs.repair().as_dict()
    except RefusedError:
        return None


def reconcile(rs: Ragstore) -> dict[str, Any] | None:
    """What was reconciled; None where another one is at it."""
    try:
        return rs.reconcile().as_dict()
    except RefusedError:
        return None


def _index(rs: Ragstore) -> Any:
    index = rs.index(COLLECTION, embed_model=HashEmbedding())
    index._transformations = [a_splitter()]
    return index


def llama_insert(rs: Ragstore, *versions: tuple[str, int]) -> None:
    index = _index(rs)
    for name, version in versions:
        index.insert(a_document(name, version))


def llama_refresh(rs: Ragstore, *versions: tuple[str, int]) -> None:
    _index(rs).refresh_ref_docs([a_document(name, version) for name, version in versions])


def llama_delete(rs: Ragstore, *names: str) -> None:
    index = _index(rs)
    for name in names:
        index.delete_ref_doc(name, delete_from_docstore=True)


def read_along(rs: Ragstore, judge: Callable[[Any], list[str]], over: Any) -> tuple[int, list[str]]:
    """Look again and again until told to stop; how often, and what was wrong."""
    from tests.crash.readers import look_until

    return look_until(rs, judge, over)


def backup(rs: Ragstore, target: str) -> dict[str, Any]:
    return backups.create(rs.settings, target).as_dict()


def restore(rs: Ragstore, target: str, replace_there: bool) -> dict[str, Any]:
    return backups.restore(rs.settings, target, Wanted(replace=replace_there)).as_dict()


def write_versions(rs: Ragstore, folder: str, who: int, texts: Sequence[tuple[str, str]]) -> None:
    """Put version after version into two documents, first into one, then into the other."""
    for pair in texts:
        for name, text in zip(("a", "b"), pair, strict=True):
            path = Path(folder, f"{who}-{name}.txt")
            path.write_text(text)
            rs.ingest(path, collection=COLLECTION)


WORKS: dict[str, Callable[..., Any]] = {
    "ingest": ingest,
    "declare": declare,
    "merge": merge,
    "delete": delete,
    "move": move,
    "drop": drop,
    "recover": recover,
    "repair": repair,
    "reconcile": reconcile,
    "llama insert": llama_insert,
    "llama refresh": llama_refresh,
    "llama delete": llama_delete,
    "read": read_along,
    "backup": backup,
    "restore": restore,
    "write versions": write_versions,
}
