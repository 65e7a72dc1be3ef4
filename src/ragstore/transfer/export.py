"""Export: a collection written as a persist_dir that plain LlamaIndex loads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import groupby
from typing import IO, Self

import numpy as np
import orjson

from ragstore.errors import RefusedError, TransferError
from ragstore.model.collection import Collection
from ragstore.model.node import VECTOR_STORE, Struct
from ragstore.model.report import Listener, Progress, TransferReport
from ragstore.model.run import Vectors
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.snapshot import Snapshot, StoredNode, snapshot
from ragstore.transfer.persist_dir import (
    DEFAULT_NAMESPACE,
    DOCSTORE,
    GRAPH_STORE,
    IMAGE_NAMESPACE,
    INDEX_STORE,
    PROPERTY_GRAPH_STORE,
    VECTOR_STORE_FILE,
    Folder,
    around_nodes,
    file_errors,
    own_struct,
    reason,
    vector_store_name,
)

_TELL_EVERY = 1_000


def export_collection(
    pool: PostgresPool,
    collection: Collection,
    structs: Sequence[Struct],
    folder: Folder,
    *,
    overwrite: bool,
    tell: Listener | None = None,
) -> TransferReport:
    """Write a snapshot of a collection; it is never in memory as a whole.

    Args:
        structs: the collection's index structs.
        overwrite: replace a persist_dir in the folder.

    Raises:
        RefusedError: the folder is not empty.

    Crash safety:
        Files are written under other names and renamed when all are complete, the document store last: without it
        LlamaIndex loads nothing.
    """
    begun = time.monotonic()
    target = Target(folder, overwrite=overwrite)
    with snapshot(pool, collection) as now:
        export = _Export(now, target, begun, tell)
        export.write(structs or [own_struct(collection.name)])
    target.publish(last=DOCSTORE)
    export.report.seconds = time.monotonic() - begun
    return export.report


class _Export:
    def __init__(self, now: Snapshot, target: Target, begun: float, tell: Listener | None) -> None:
        self.report = TransferReport()
        self._now = now
        self._target = target
        self._begun = begun
        self._tell = tell
        self._n_vectors, self._n_bodies = now.n_nodes()

    def write(self, structs: Sequence[Struct]) -> None:
        with self._file(vector_store_name(DEFAULT_NAMESPACE)) as sink:
            sink.section("embedding_dict", self._counted("vectors", _vectors(self._now.vectors())))
            sink.section("text_id_to_ref_doc_id", _documents_of_nodes(self._now))
            sink.section("metadata_dict", ((node_id, data.encode()) for node_id, _, data in self._now.metadata()))
        with self._file(DOCSTORE) as sink:
            sink.section("docstore/metadata", _hashes(self._now))
            sink.section("docstore/data", self._counted("nodes", _bodies(self._now.nodes())))
            sink.section("docstore/ref_doc_info", self._ref_docs())
        with self._file(INDEX_STORE) as sink:
            sink.section("index_store/data", ((s.index_id, _struct(self._now, s)) for s in structs))
        with self._file(GRAPH_STORE) as sink:
            sink.section("graph_dict", _triplets(self._now.triplets()))
        with self._file(vector_store_name(IMAGE_NAMESPACE)) as sink:
            for name in ("embedding_dict", "text_id_to_ref_doc_id", "metadata_dict"):
                sink.section(name, ())
        self.report.nodes = self._n_vectors + self._n_bodies

    @contextmanager
    def _file(self, name: str) -> Iterator[Sink]:
        with self._target.opened(name) as stream, Sink.on(stream) as sink:
            yield sink

    def _ref_docs(self) -> Iterator[tuple[str, bytes]]:
        for document in self._now.documents():
            self.report.documents += 1
            # A document that was never split into nodes has no entry in LlamaIndex either.
            if document.node_ids:
                entry = {"node_ids": document.node_ids, "metadata": document.metadata}
                yield document.document_id, orjson.dumps(entry)

    def _counted(self, step: str, entries: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        expected = self._n_vectors + (self._n_bodies if step == "nodes" else 0)
        for n, entry in enumerate(entries, start=1):
            yield entry
            if self._tell is not None and n % _TELL_EVERY == 0:
                self._tell(Progress(step, n, expected, time.monotonic() - self._begun))


def _vectors(vectors: Iterable[tuple[str, Vectors]]) -> Iterator[tuple[str, bytes]]:
    for node_id, vector in vectors:
        yield node_id, orjson.dumps(np.ascontiguousarray(vector), option=orjson.OPT_SERIALIZE_NUMPY)


def _documents_of_nodes(now: Snapshot) -> Iterator[tuple[str, bytes]]:
    for node_id, document_id, _ in now.metadata():
        yield node_id, orjson.dumps(document_id if document_id is not None else "None")


def _bodies(nodes: Iterable[StoredNode]) -> Iterator[tuple[str, bytes]]:
    for node in nodes:
        yield node.node_id, orjson.dumps({"__data__": node.content, "__type__": node.type_key})


def _hashes(now: Snapshot) -> Iterator[tuple[str, bytes]]:
    """Hashes: of documents from the ledger, of nodes as LlamaIndex computes them."""
    for document in now.documents():
        if document.doc_hash is not None:
            yield document.document_id, orjson.dumps({"doc_hash": document.doc_hash})
    for node in now.nodes():
        if node.document_id != node.node_id:
            source = {} if node.document_id is None else {"ref_doc_id": node.document_id}
            yield node.node_id, orjson.dumps({"doc_hash": _hash(node), **source})


def _hash(node: StoredNode) -> str:
    if node.content.get("class_name") == "TextNode":
        identity = str(node.content["text"]) + str(node.content["metadata"])
        return sha256(identity.encode()).hexdigest()
    from llama_index.core.storage.docstore.utils import json_to_doc

    return json_to_doc({"__type__": node.type_key, "__data__": node.content}).hash


def _struct(now: Snapshot, struct: Struct) -> Iterable[bytes]:
    """The entry of a struct, in pieces: for a vector index it names every node."""
    yield f'{{"__type__": {json.dumps(struct.kind)}, "__data__": "'.encode()
    if struct.kind != VECTOR_STORE:
        yield _escaped(struct.payload)
    else:
        before, behind = around_nodes(struct)
        yield _escaped(before)
        separator = ""
        for node_id in now.node_ids():
            key = json.dumps(node_id)
            yield _escaped(f"{separator}{key}: {key}")
            separator = ", "
        yield _escaped(behind)
    yield b'"}'


def _triplets(triplets: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, bytes]]:
    """The triplets by subject; those of a subject come one after the other."""
    for subject, group in groupby(triplets, key=lambda triplet: triplet[0]):
        yield subject, orjson.dumps([[relation, other] for _, relation, other in group])


def _escaped(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


PARTIAL = ".partial"
_BUFFER_BYTES = 1 << 20


class Target:
    """Files of a folder, under other names until ``publish``; local files can be read only by their owner.

    Raises:
        RefusedError: the folder is not empty.
    """

    def __init__(self, folder: Folder, *, overwrite: bool) -> None:
        self._folder = folder
        self._written: list[str] = []
        with self._translated_errors(""):
            names = folder.names()
        # Files of a killed export may be replaced: without a document store, which is renamed last, nothing loads them.
        is_left_over = f"{DOCSTORE}{PARTIAL}" in names and DOCSTORE not in names
        others = [name for name in names if not name.endswith(PARTIAL)]
        if others and not overwrite and not is_left_over:
            raise RefusedError(
                f"{folder.url} is not empty",
                hint="name an empty folder, or say --overwrite to replace the persist_dir there",
                in_python="name an empty folder, or give overwrite=True to replace the persist_dir there",
                target=folder.url,
            )

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file to write, for the length of the block."""
        with self._translated_errors(name):
            self._folder.make()
            with self._folder.fs.open(self._folder.at(f"{name}{PARTIAL}"), "wb") as stream:
                if self._folder.is_local:
                    os.chmod(self._folder.at(f"{name}{PARTIAL}"), 0o600)
                yield stream
        self._written.append(name)

    def publish(self, *, last: str) -> None:
        """Give the files their names.

        Crash safety:
            Until ``last`` has its name the folder does not load; a repeated export writes everything again.
        """
        fs, at = self._folder.fs, self._folder.at
        with self._translated_errors(""):
            # The old document store goes first: with new vectors it would load, and be wrong.
            for name in self._former(first=last):
                fs.rm_file(at(name))
            for name in [*(n for n in self._written if n != last), last]:
                fs.mv(at(f"{name}{PARTIAL}"), at(name))

    def _former(self, *, first: str) -> list[str]:
        """Files of the old persist_dir and of killed exports, ``first`` first."""
        known = (DOCSTORE, INDEX_STORE, GRAPH_STORE, PROPERTY_GRAPH_STORE)
        now = {f"{name}{PARTIAL}" for name in self._written}
        found = [
            name
            for name in self._folder.names()
            if name in known or name.endswith(VECTOR_STORE_FILE) or (name.endswith(PARTIAL) and name not in now)
        ]
        return sorted(found, key=lambda name: (name != first, name))

    @contextmanager
    def _translated_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except file_errors() as error:
            where = self._folder.shown(name) if name else self._folder.url
            raise TransferError(
                f"{where} cannot be written: {reason(error)}",
                hint="check the permissions, the space and the connection, then run the same command again",
                target=self._folder.url,
            ) from error


class Sink:
    """Writer of a JSON object of sections, each an object; entries are written as they come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = bytearray(b"{")
        self._separator = b""

    @classmethod
    @contextmanager
    def on(cls, stream: IO[bytes]) -> Iterator[Self]:
        """A sink on this stream; the JSON is closed, and so valid, if the block ends without an error."""
        sink = cls(stream)
        yield sink
        sink._write(b"}")
        sink._flush()

    def section(self, name: str, entries: Iterable[tuple[str, bytes | Iterable[bytes]]]) -> None:
        """Write a section.

        Args:
            entries: keys and values, the values as JSON, whole or in pieces.
        """
        self._write(self._separator + orjson.dumps(name) + b": {")
        self._separator = b", "
        separator = b""
        for key, value in entries:
            self._write(separator + orjson.dumps(key) + b": ")
            for piece in (value,) if isinstance(value, bytes) else value:
                self._write(piece)
            separator = b", "
        self._write(b"}")

    def _write(self, piece: bytes) -> None:
        self._buffer += piece
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._stream.write(self._buffer)
        self._buffer.clear()
