"""Storage of prepared documents: each is published, found to be unchanged, or put into quarantine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import orjson

from ragstore.errors import ContentError, MassDeletionError, Retry, StoreError, UnreadableError
from ragstore.ingest.counter import IngestCounter
from ragstore.ingest.deletion import MAX_DELETED, is_mass
from ragstore.ingest.nodes import build_nodes, document_metadata
from ragstore.ingest.planner import Care, fingerprint, is_overtaken, is_same
from ragstore.ingest.retry import retry_transient
from ragstore.ingest.vectors import Prepared
from ragstore.model.collection import Collection
from ragstore.model.document import DocumentState, SourceItem
from ragstore.model.run import Action, PlannedRevision
from ragstore.postgres import documents
from ragstore.postgres.documents import ChunkAsRead, Failure, Touched
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Publisher
from ragstore.protocol.recover import Recoverer
from ragstore.sources.presence import leads_to, size_and_times


class Storer:
    """Publishes batches of prepared documents."""

    def __init__(  # noqa: PLR0913 - the parts it works with, given in one place
        self,
        pool: PostgresPool,
        collection: Collection,
        publisher: Publisher,
        recoverer: Recoverer,
        counter: IngestCounter,
        *,
        worker: str,
        care: Care,
        source_missing: Callable[[str], bool],
        allow_mass_delete: bool,
        giving_up: threading.Event,
    ) -> None:
        self._pool = pool
        self._collection = collection
        self._publisher = publisher
        self._recoverer = recoverer
        self._counter = counter
        self._worker = worker
        self._care = care
        self._source_missing = source_missing
        self._allow_mass_delete = allow_mass_delete
        self._giving_up = giving_up

    def give_up(self) -> None:
        """End all waiting for a database that is unavailable."""
        self._giving_up.set()

    def store(self, batch: Sequence[Prepared]) -> None:
        """Publish a batch; only a document that a store refuses permanently is put into quarantine.

        Raises:
            StoreError, LeaseLostError: it still failed after a minute of retries; what is published stays.

        Crash safety:
            As ``Publisher.publish``; a run is planned again from the ledger after every failure.
        """
        remaining = list(batch)
        try:
            retry_transient(lambda: self._store_once(remaining), giving_up=self._giving_up)
        except StoreError as error:
            # With nothing left to store, no document can be the cause.
            if error.retry is not Retry.NEVER or not remaining:
                raise
            self._isolate(remaining, error)

    def set_aside(self, failures: Sequence[Failure]) -> None:
        """Put documents into quarantine."""
        retry_transient(lambda: documents.put_quarantine(self._pool, self._collection, failures, worker=self._worker))
        for failure in failures:
            self._counter.failed(failure.item, failure.error.code, failure.error.message)

    def _isolate(self, batch: Sequence[Prepared], error: StoreError) -> None:
        if len(batch) == 1:
            self.set_aside([Failure(batch[0].item, error)])
            return
        middle = len(batch) // 2
        self.store(batch[:middle])
        self.store(batch[middle:])

    def _store_once(self, batch: list[Prepared]) -> None:
        """Store the documents of a batch and remove from it those that are done, so that it can be called again."""
        while batch:
            planned = self._plan(batch)
            batch[:] = [prepared for prepared, _ in planned]
            result = self._publisher.publish(self._collection, [revision for _, revision in planned])
            self._counter.deleted(result.deleted)
            published = set(result.published)
            for prepared, revision in planned:
                if revision.document_id in published:
                    self._counter.published(
                        prepared.item,
                        revision.action,
                        n_chunks=len(revision.nodes),
                        n_embedded=revision.n_embedded,
                        notes=revision.notes,
                    )
                    self._ended(prepared)
            moved_on = set(result.moved_on)
            batch[:] = [prepared for prepared, _ in planned if prepared.item.document_id in moved_on]
        self._recoverer.retire()

    def _plan(self, batch: Sequence[Prepared]) -> list[tuple[Prepared, PlannedRevision]]:
        states = documents.get_documents(self._pool, self._collection, [p.item.document_id for p in batch])
        renamed = self._renamed(batch, states)
        unchanged = self._read_as_before(batch, states)
        planned, failures = [], []
        for prepared in batch:
            state = states.get(prepared.item.document_id)
            vanished = prepared.container.vanished() if prepared.container else {}
            if prepared.item.document_id in unchanged and not vanished:
                self._counter.unchanged(prepared.item)
                self._ended(prepared)
                continue
            if state is not None and state.revision and is_overtaken_now(state, prepared.item):
                self._counter.unchanged(prepared.item)
                continue
            try:
                self._check_members(prepared, vanished)
                old = renamed.get(prepared.item.document_id)
                revision = _planned(prepared, state, old, self._collection)
                planned.append((prepared, replace(revision, vanished=vanished) if vanished else revision))
            except (ContentError, MassDeletionError) as error:
                failures.append(Failure(prepared.item, error))
        self.set_aside(failures)
        return planned

    def _read_as_before(self, batch: Sequence[Prepared], states: dict[str, DocumentState]) -> set[str]:
        """Ids of the documents whose live revision is what was read now.

        Another worker was faster, a commit succeeded but its answer was lost, or a document was read again only because
        the readers changed or somebody asked for it: then its chunks are compared.
        """
        unchanged, touched = set(), []
        again = [p for p in batch if _has_content(states.get(p.item.document_id), p.document.content_hash)]
        for prepared in again if not self._care.reread else ():
            if is_same(states[prepared.item.document_id], prepared.document.content_hash, self._collection.chunking):
                unchanged.add(prepared.item.document_id)
        again = [p for p in again if p.item.document_id not in unchanged]
        if not again:
            return unchanged
        readings = documents.get_readings(self._pool, self._collection, [p.item.document_id for p in again])
        for prepared in again:
            item, state = prepared.item, states[prepared.item.document_id]
            if _is_reading(prepared, state, readings.get(item.document_id, [])):
                unchanged.add(item.document_id)
                new = fingerprint(prepared.document.content_hash, self._collection.chunking)
                touched.append(Touched(item, state.revision, new, prepared.document.notes))
        documents.touch_documents(self._pool, self._collection, touched)
        return unchanged

    def _check_members(self, prepared: Prepared, vanished: Mapping[str, int]) -> None:
        """Raise an error if a container cannot be what its reading found.

        Raises:
            UnreadableError: another worker, which read another state of it, has deleted a member that it has.
            MassDeletionError: suspiciously many of its members are gone.
        """
        if prepared.container is None:
            return
        container = prepared.item
        lost = prepared.container.lost(documents.get_members(self._pool, self._collection, container))
        if lost is not None:
            raise UnreadableError(
                f"{container.document_id} changed while it was read: {lost} was deleted",
                hint="run the same command again",
            )
        if len(vanished) > MAX_DELETED and not self._allow_mass_delete:
            n_live = documents.count_live(self._pool, self._collection)
            if is_mass(len(vanished), n_live):
                raise MassDeletionError(
                    f"{container.document_id}: {len(vanished):,} of its members are gone from it, of {n_live:,} "
                    "documents: they were not deleted",
                    hint="if they are to go, run: ragstore sync PATH --allow-mass-delete",
                    in_python="if they are to go, call sync with allow_mass_delete=True",
                )

    def _ended(self, prepared: Prepared) -> None:
        """A container was read to its end and stored: count what it leaves out, and free what is well of quarantine."""
        reading = prepared.container
        if reading is None:
            return
        self._counter.left_out(prepared.document.left_out)
        entries = documents.get_quarantined_members(self._pool, self._collection, prepared.item)
        well = [document_id for document_id in entries if reading.is_well(document_id)]
        documents.forget_quarantined(self._pool, self._collection, well)

    def _renamed(self, batch: Sequence[Prepared], states: dict[str, DocumentState]) -> dict[str, DocumentState]:
        """For each new document, a live document with the same content and a missing source; each is used once.

        Also one that was read through a link to the folder that the new one lies in: it is the same file.
        """
        new = [p for p in batch if not (p.item.document_id in states and states[p.item.document_id].live)]
        if not new:
            return {}
        hashes = list({p.document.content_hash for p in new})
        by_content = documents.find_by_content(self._pool, self._collection, hashes)
        # A document of the batch has just been read, so its source exists, and it gets a revision of its own.
        in_batch = {p.item.document_id for p in batch}
        renamed = {}
        for prepared in new:
            candidates = by_content.get(prepared.document.content_hash, [])
            while candidates:
                candidate = candidates.pop(0)
                is_replaced = self._source_missing(candidate.source_uri) or leads_to(
                    candidate.source_uri, prepared.item.source_uri
                )
                if candidate.document_id not in in_batch and is_replaced:
                    renamed[prepared.item.document_id] = candidate
                    break
        return renamed


def is_overtaken_now(state: DocumentState, item: SourceItem) -> bool:
    """Whether another worker stored a later state of the source, so that this one would bring old text back."""
    try:
        return is_overtaken(state, item, size_and_times(item.source_uri))
    except OSError:
        return False


def _has_content(state: DocumentState | None, content_hash: str) -> bool:
    return state is not None and state.live and state.content_hash == content_hash


def _is_reading(prepared: Prepared, state: DocumentState, live: Sequence[ChunkAsRead]) -> bool:
    """Whether these live chunks, and the document's metadata, are what was read now."""
    try:
        nodes = build_nodes(prepared.item, prepared.document)
        metadata = document_metadata(prepared.item, prepared.document)
    except ContentError:
        return False
    read = [(n.chunk_hash, n.start_char, n.end_char, orjson.loads(orjson.dumps(n.metadata))) for n in nodes]
    return read == list(live) and orjson.loads(orjson.dumps(metadata)) == state.metadata and state.n_nodes == len(nodes)


def _planned(
    prepared: Prepared, state: DocumentState | None, old: DocumentState | None, collection: Collection
) -> PlannedRevision:
    item, document = prepared.item, prepared.document
    action: Action = "renamed" if old else "updated" if state and state.live else "added"
    return PlannedRevision(
        document_id=item.document_id,
        source_uri=item.source_uri,
        planned_from=state.revision if state else 0,
        action=action,
        nodes=build_nodes(item, document),
        vectors=np.asarray(prepared.vectors, dtype=np.float32),
        fingerprint=fingerprint(document.content_hash, collection.chunking),
        content_hash=document.content_hash,
        doc_hash=document.content_hash,
        size=item.size,
        mtime_ns=item.mtime_ns,
        etag=item.etag,
        metadata=document_metadata(item, document),
        replaces=(old.document_id, old.revision) if old else None,
        n_embedded=prepared.n_embedded,
        ctime_ns=item.ctime_ns,
        notes=document.notes,
    )
