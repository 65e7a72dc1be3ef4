"""The ``Ragstore`` object that ``ragstore.open()`` returns: every use case on one pair of databases."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ragstore.app.migrations import check_or_apply
from ragstore.app.models import EXTERNAL, Models, check_chunking, check_space, check_vector_type, chosen_space
from ragstore.app.wiring import Addresses, postgres_pool, reachable
from ragstore.errors import MassDeletionError, PathNotFoundError, SchemaVersionError, UsageError, closed
from ragstore.model.collection import (
    Chunking,
    Collection,
    CollectionSummary,
    MadeCollection,
    TableForm,
    VectorType,
    checked_filter_keys,
    checked_name,
)
from ragstore.postgres import collections, documents, filter_keys
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings
from ragstore.telemetry.logging import get_logger

if TYPE_CHECKING:
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
    from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
    from llama_index.core.storage.kvstore.types import BaseKVStore

    from ragstore.app.ingestion import Target
    from ragstore.app.queries import Queries
    from ragstore.app.transfer import PlainStack, TargetCollection, Transfers
    from ragstore.app.writer import Writer
    from ragstore.llama import Backend
    from ragstore.model.document import DocumentState, Event, QuarantineEntry
    from ragstore.model.drift import ReconcileReport, RepairReport, VerifyReport
    from ragstore.model.filters import Filter
    from ragstore.model.hit import Hits
    from ragstore.model.report import DeleteReport, IngestReport, Listener, MoveReport, TransferReport
    from ragstore.postgres.search import Mode
    from ragstore.query.answer import Answer
    from ragstore.query.show import DocumentText
    from ragstore.sources import Listing
    from ragstore.sources.selection import Selection
    from ragstore.transfer.comparison import AskedVector, CompareReport
    from ragstore.worker.health import Health
    from ragstore.worker.upkeep import Upkeep


NOTES = "ragstore.notes"  # its own logger, for callers that show the notes of an answer themselves
_notes = get_logger(NOTES)


class Ragstore:
    """Every use case on one pair of databases; safe to use from several threads."""

    def __init__(self, settings: Settings, addresses: Addresses, pool: PostgresPool) -> None:
        self.settings = settings
        self._addresses = addresses
        self._pool = pool
        self._models = Models(settings)
        self._writer_lock = threading.Lock()
        self._opened_writer: Writer | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; embedded servers go on running. Any later use raises ClosedError."""
        with self._writer_lock:
            self._is_closed = True
        if self._opened_writer is not None:
            self._opened_writer.close()
        self._pool.close()

    # Collections

    def create_collection(  # noqa: PLR0913 - one argument per property
        self,
        name: str,
        *,
        model: str | None = None,
        dim: int | None = None,
        chunk_size: int | None = None,
        chunk_overlap: int | None = None,
        vector_type: VectorType | None = None,
        filter_keys: Sequence[str] = (),
    ) -> Collection:
        """Make a collection, or return the one with that name.

        Args:
            model: as the setting; ``external`` if the vectors come with the nodes, which needs ``dim``.
            vector_type: as the setting; ``halfvec`` stores vectors as float16, in half the space.
            filter_keys: metadata keys that filters will often name; those of an existing collection stay, and new ones
                are added. If its table belongs to another role, ``ragstore maintain`` builds the indexes.

        Raises:
            EmbeddingSpaceError: it exists with another model, ``dim`` or ``vector_type``; both are named.
            UsageError: a name, model, length or filter key that cannot be used.
        """
        keys = checked_filter_keys(filter_keys)
        found = collections.find_collection(self._pool, checked_name(name))
        if found is None:
            chunking = Chunking(
                self.settings.chunk_size if chunk_size is None else chunk_size,
                self.settings.chunk_overlap if chunk_overlap is None else chunk_overlap,
            )
            check_chunking(chunking)
            found = collections.create_collection(
                self._pool,
                name,
                space=chosen_space(self._models, model or self.settings.model, dim),
                chunking=chunking,
                text_search_config=self.settings.text_search_config,
                form=TableForm(vector_type or self.settings.vector_type, keys),
            )
        check_space(found, model, dim)
        check_vector_type(found, vector_type)
        return self._with_filter_keys(found, keys)

    def _with_filter_keys(self, collection: Collection, keys: Sequence[str]) -> Collection:
        if not set(keys) <= set(collection.filter_keys):
            collection = filter_keys.declare(self._pool, collection, keys)
        if keys:
            filter_keys.build_missing(self._pool, collection)
        return collection

    def collections(self) -> list[CollectionSummary]:
        """All collections with their sizes."""
        return collections.list_collections(self._pool)

    def drop_collection(self, name: str) -> int:
        """Delete a collection with all its content from both stores; returns how many documents were live.

        Raises:
            CollectionNotFoundError: there is no collection with that name.
            StoreSetupError: only the PostgreSQL role that owns its table can drop it; nothing was deleted.
            CollectionBusyError: other writers keep writing to it; run it again.
        """
        found, writer = collections.get_collection(self._pool, name), self._writer()
        return writer.dropper(self._pool).drop(found)

    # Documents

    def ingest(  # noqa: PLR0913 - one argument per choice
        self,
        *paths: str | Path,
        collection: str | None = None,
        filter_keys: Sequence[str] = (),
        follow_links: bool | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        default_excludes: bool = True,
        checksum: bool | None = None,
        reread: bool = False,
        strict: bool | None = None,
        progress: Listener | None = None,
    ) -> IngestReport:
        """Add and update documents from files and folders; renames are followed, documents of deleted files stay.

        If there is no collection with that name, it is made, and the report says so. Documents that cannot be read go
        to quarantine and are counted as failed.

        Args:
            filter_keys: as those of ``create_collection``.
            follow_links: also read files outside of these folders that links in them lead to; None: as the setting.
            include: patterns, with the syntax of ``.gitignore`` and relative to each folder; if there are any, only
                files that match one of them are taken from folders. Named files are always taken.
            exclude: patterns of files and folders that are left out, as a ``.ragstoreignore`` file in a folder does for
                all below it.
            default_excludes: whether files of programs are left out (locks, caches, ``node_modules`` …).
            checksum: hash each file, whatever its size and times say; None: as the setting.
            reread: also parse each file, e.g. after a reader was mended; a document that reads as before keeps its
                revision, of others only the changed chunks are embedded.
            strict: put a document into quarantine if text of it may be missing or wrong, by its notes; its former
                revision stays; None: as the setting.

        Raises:
            PathNotFoundError: a path does not exist.
            UsageError: a path is never read, or a pattern or filter key cannot be used.
            EmbeddingSpaceError: the collection was made with another model.
            StoreError, ModelError: the ingest could not go on; run it again, it does not repeat finished work.
        """
        from ragstore.app.ingestion import Ingestion, care_of, selected

        read = self._target(paths, collection, follow_links, selected(include, exclude, defaults=default_excludes))
        listing = self._listing(read, collection)
        into, made = self._collection_or_new(collection, filter_keys)
        care = care_of(self.settings, strict=strict, checksum=checksum, reread=reread)
        ingestion = Ingestion(self.settings, self._pool, self._models, self._writer(), care)
        report = ingestion.ingest(into, read, listing, progress)
        report.collection_made = made
        return report

    def sync(  # noqa: PLR0913 - one argument per choice
        self,
        *paths: str | Path,
        collection: str | None = None,
        filter_keys: Sequence[str] = (),
        allow_mass_delete: bool = False,
        dry_run: bool = False,
        follow_links: bool | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        default_excludes: bool = True,
        checksum: bool | None = None,
        reread: bool = False,
        strict: bool | None = None,
        progress: Listener | None = None,
    ) -> IngestReport:
        """As ``ingest``; then delete documents that an ingest read from these folders and whose files no longer exist.

        Also documents whose files are left out now, by a pattern or by default, are deleted. Other documents stay, also
        those that LlamaIndex code added, and those that an ingest read through a link that is not followed now. If a
        folder cannot be listed, nothing is deleted.

        Args:
            allow_mass_delete: delete even more than 20 % of the collection and more than 10 documents, or all documents
                of a folder that has none of their files any more.
            dry_run: report what would be done or refused, and change nothing; files are read only to identify them.
            follow_links, include, exclude, default_excludes, checksum, reread, strict: as in ``ingest``.

        Raises:
            MassDeletionError: nothing was deleted; what was added and updated stays.
            PathNotFoundError, UsageError, EmbeddingSpaceError, StoreError, ModelError: as ``ingest``.
        """
        from ragstore.app.ingestion import Ingestion, care_of, preview_sync, selected

        read = self._target(paths, collection, follow_links, selected(include, exclude, defaults=default_excludes))
        listing = self._listing(read, collection)
        care = care_of(self.settings, strict=strict, checksum=checksum, reread=reread)
        if dry_run:
            wanted = checked_name(collection or self.settings.collection)
            found = collections.find_collection(self._pool, wanted)
            if found is not None:
                self._models.check(found)
            report = preview_sync(
                self._pool, found, read, listing, progress, allow_mass_delete=allow_mass_delete, care=care
            )
            if found is None:
                space = chosen_space(self._models, self.settings.model, None)
                report.collection_made = MadeCollection(wanted, space.model, space.dim)
            return report
        into, made = self._collection_or_new(collection, filter_keys)
        ingestion = Ingestion(self.settings, self._pool, self._models, self._writer(), care)
        try:
            report = ingestion.sync(into, read, listing, progress, allow_mass_delete=allow_mass_delete)
        except MassDeletionError as error:
            error.facts["report"].collection_made = made
            raise
        report.collection_made = made
        return report

    def documents(self, collection: str | None = None) -> Iterator[DocumentState]:
        """Live documents, in the order of their ids."""
        return documents.iter_documents(self._pool, self._collection(collection))

    def history(self, document_id: str, collection: str | None = None) -> list[Event]:
        """All events of a document, oldest first; empty for an unknown id."""
        return documents.history(self._pool, self._collection(collection), document_id)

    def show(self, document_id: str, collection: str | None = None, *, revision: int | None = None) -> DocumentText:
        """The text of a live document, put together from its chunks: ``text[hit.start_char:hit.end_char]``.

        Args:
            revision: the one that is expected, None for the live one; others are not kept.

        Raises:
            DocumentNotFoundError: it is not live, or not in that revision.
        """
        from ragstore.query.show import show

        return show(self._pool, self._collection(collection), document_id, revision=revision)

    def delete(self, *document_ids: str, collection: str | None = None) -> int:
        """Delete documents from both stores, containers with their members; returns how many were live."""
        found, writer = self._collection(collection), self._writer()
        members = documents.with_members(self._pool, found, document_ids)
        n_deleted = writer.publisher.delete(found, list(dict.fromkeys([*document_ids, *members])))
        writer.recoverer.retire()
        return n_deleted

    def delete_below(
        self,
        path: str | Path,
        *,
        collection: str | None = None,
        allow_mass_delete: bool = False,
        dry_run: bool = False,
    ) -> DeleteReport:
        """Delete the documents with this path or one below it, whoever added them; their files stay.

        Args:
            allow_mass_delete: delete even more than 20 % of the collection and more than 10 documents.
            dry_run: report what would be deleted, and change nothing.

        Raises:
            DocumentNotFoundError: there is none.
            MassDeletionError: nothing was deleted.
        """
        from ragstore.app.relocation import delete_below

        found = self._collection(collection)
        return delete_below(self._pool, found, path, self._writer, allow_mass_delete=allow_mass_delete, dry_run=dry_run)

    def move(self, old: str | Path, new: str | Path, *, collection: str | None = None) -> MoveReport:
        """Give the documents that an ingest read below one path ids below another one, after a folder was moved.

        Nothing is read or embedded. Documents that are at their new id already, with the same content, only leave the
        old one; those with another content, and those that LlamaIndex code added, stay and are in the report. Killed in
        the middle, it goes on when it is called again.

        Raises:
            DocumentNotFoundError: there is none below ``old``.
            UsageError: one path lies in the other.
        """
        from ragstore.app.relocation import move

        return move(self._pool, self._collection(collection), old, new, self._writer(), self.settings.batch_chunks)

    def quarantined(self, collection: str | None = None) -> list[QuarantineEntry]:
        """Documents in quarantine, with the reason."""
        return documents.list_quarantine(self._pool, self._collection(collection))

    def retry_quarantine(self, *document_ids: str, collection: str | None = None) -> int:
        """Let the next ingest try these documents again, or all; returns how many were in quarantine."""
        return documents.release_quarantine(self._pool, self._collection(collection), document_ids)

    # Transfers

    def import_(
        self,
        persist_dir: str | os.PathLike[str],
        *,
        collection: str | None = None,
        model: str | None = None,
        namespace: str = "default",
        filter_keys: Sequence[str] = (),
        progress: Listener | None = None,
    ) -> TransferReport:
        """Import a folder that LlamaIndex persisted, local or at an fsspec URL, into a collection.

        If there is no collection with that name, it is made. Nothing is embedded; equal nodes that exist already are
        skipped; what cannot be imported is in the report.

        Args:
            model: the model that made the vectors; if it is not given, a new collection is ``external``.
            namespace: which of several vector stores to import.
            filter_keys: as those of ``create_collection``.

        Raises:
            UsageError: there is no persist_dir, or no such vector store in it.
            TransferError: a file is damaged; nothing was written.
            EmbeddingSpaceError: the collection is made for other vectors; nothing was written.
            StoreError: run it again; it continues.
        """
        target_collection = self._target_collection(collection, model, filter_keys)
        return self._transfers().import_(os.fspath(persist_dir), target_collection, progress, namespace=namespace)

    def adopt(  # noqa: PLR0913 - one argument for each option of the command line
        self,
        source: PlainStack | str,
        *,
        collection: str | None = None,
        docstore: BaseKVStore | KVDocumentStore | str | None = None,
        index_store: BaseKVStore | KVIndexStore | str | None = None,
        text_key: str | None = None,
        document_key: str | None = None,
        namespace: str | None = None,
        model: str | None = None,
        filter_keys: Sequence[str] = (),
        dry_run: bool = False,
        progress: Listener | None = None,
    ) -> TransferReport:
        """Import the content of another store into a collection, as ``import_`` does; the store is only read.

        Args:
            source: address of a vector store, such as ``chroma:PATH#collection``; ``transfer/README.md`` lists them.
            docstore: address of the document store, such as ``redis://host:6379#namespace``, or LlamaIndex's object.
            index_store: the same of the index store; None looks in the document store's place.
            text_key, document_key: keys of entries that LlamaIndex did not write; ``a.b`` is ``b`` in the object ``a``.
            namespace: of the document store.
            dry_run: read and check everything, and report what would be written.

        Raises:
            UsageError: there is no such store, its client is not installed, or entries have no text under that key.
            ForeignStoreError: it does not answer.
            EmbeddingSpaceError: vectors of another length, or a metric whose order cosine does not give.
            StoreError: as ``import_``.
        """
        from ragstore.app.transfer import Adopted

        adopted = (
            Adopted(source, docstore, index_store, text_key, document_key, namespace)
            if isinstance(source, str)
            else source
        )
        target_collection = self._target_collection(collection, model, filter_keys)
        return self._transfers().adopt(adopted, target_collection, progress, dry_run=dry_run)

    def compare(
        self, source: str, questions: Sequence[str | AskedVector], *, collection: str | None = None, top_k: int = 10
    ) -> CompareReport:
        """Ask another vector store and a collection the same questions, and report how many hits both have.

        Args:
            source: address of a vector store, as for ``adopt``.
            questions: texts, which the collection's model embeds, or texts with their vectors.

        Raises:
            UsageError: there is no question, or a text for a collection whose vectors come from outside.
            CollectionNotFoundError, EmbeddingSpaceError, ForeignStoreError, StoreError
        """
        from ragstore.transfer.comparison import AskedVector, compare

        found = self._collection(collection)
        self._models.check(found)
        asked = [each if isinstance(each, AskedVector) else AskedVector(each) for each in questions]

        def nearest(question: AskedVector) -> list[str]:
            hits = self.query(
                question.text, collection=found.name, top_k=top_k, mode="vector", embedding=question.embedding
            )
            return [hit.node_id for hit in hits]

        with self._transfers().vector_reader(source) as reader:
            return compare(reader, [self._with_embedding(found, each) for each in asked], nearest, top_k)

    def _with_embedding(self, found: Collection, question: AskedVector) -> AskedVector:
        if question.embedding is not None:
            return question
        if found.space.model == EXTERNAL:
            raise UsageError(
                f"the vectors of collection {found.name!r} come from outside, so the questions' must too",
                hint='give them in a file of lines {"question": "…", "embedding": [0.1, …]} with --questions',
                in_python="give AskedVector(text, embedding)",
                collection=found.name,
            )
        return replace(question, embedding=self._models.of(found).embed_query(question.text).tolist())

    def export(
        self,
        target: str | os.PathLike[str],
        *,
        collection: str | None = None,
        overwrite: bool = False,
        progress: Listener | None = None,
    ) -> TransferReport:
        """Write a snapshot of a collection as a folder that plain LlamaIndex loads.

        Raises:
            RefusedError: the folder is not empty, and ``overwrite`` is false.
            CollectionNotFoundError, TransferError, StoreError
        """
        found = self._collection(collection)
        return self._transfers().export(found, os.fspath(target), progress, overwrite=overwrite)

    # Health

    def verify(
        self,
        collection: str | None = None,
        *,
        deep: bool = False,
        progress: Listener | None = None,
    ) -> VerifyReport:
        """Compare both stores with the ledger; changes nothing, and is correct also while workers run.

        Args:
            collection: only this one; None for all.
            deep: also compare texts, metadata and vectors, not only which nodes exist.

        Raises:
            EmptyStoreError: MongoDB belongs to another PostgreSQL database.
            CollectionNotFoundError, StoreError
        """
        from ragstore.app.audit_session import open_audit_session
        from ragstore.audit.verify import verify

        wanted = self._collections_to_audit(collection)
        with open_audit_session(self.settings, self._addresses) as session:
            return verify(
                session.pool, session.database, wanted, deep=deep, everything=collection is None, tell=progress
            )

    def repair(
        self,
        collection: str | None = None,
        *,
        dry_run: bool = False,
        set_aside: bool = False,
        progress: Listener | None = None,
    ) -> RepairReport:
        """Remove the drift that ``verify(deep=True)`` finds; data that is not proved garbage is kept and reported.

        Args:
            collection: only this one; None for all.
            dry_run: report what would be done, and change nothing.
            set_aside: move data that would be kept to a place in MongoDB that nothing reads; the report names it.

        Raises:
            EmptyStoreError: MongoDB belongs to another PostgreSQL database.
            RestoredStoreError: one store was restored to another moment than the other.
            RefusedError: another repair is running.
            ModelError: vectors must be computed and the model cannot be used; earlier repairs stay.
            CollectionNotFoundError, StoreError
        """
        from ragstore.app.audit_session import open_audit_session, repairing
        from ragstore.audit.repair import RepairOptions, repair

        wanted = self._collections_to_audit(collection)
        of, min_nodes = self._models.of, self.settings.index_min_nodes
        with open_audit_session(self.settings, self._addresses) as session:
            aside = session.aside(dry_run=dry_run) if set_aside else None
            options = RepairOptions(of, min_nodes, set_aside=aside, whole=collection is None)
            if dry_run:
                session.watch.check()
                return repair(session.pool, session.database, wanted, options, None, progress)
            with repairing(session) as (repairer, registered):
                options = replace(options, registered=registered)
                return repair(session.pool, session.database, wanted, options, repairer, progress)

    def reconcile(self, *, dry_run: bool = False, progress: Listener | None = None) -> ReconcileReport:
        """Bring MongoDB to PostgreSQL's state after one of the stores was restored to another moment.

        Data that only MongoDB has is moved to a place that nothing reads; the report names it. Writers that began
        before are refused with EpochEndedError; all others are refused until it ends. If neither store was restored,
        nothing is done.

        Args:
            dry_run: report what would be done, and change nothing.

        Raises:
            EmptyStoreError: MongoDB belongs to another PostgreSQL database.
            RefusedError: a repair or another reconcile is running.
            StoreError: a database cannot be reached.
        """
        from ragstore.app.audit_session import open_audit_session, reconcile
        from ragstore.audit.repair import RepairOptions

        of, min_nodes = self._models.of, self.settings.index_min_nodes
        with open_audit_session(self.settings, self._addresses) as session:
            options = RepairOptions(of, min_nodes, set_aside=session.aside(dry_run=dry_run), by_postgres=True)
            return reconcile(session, lambda: self._collections_to_audit(None), options, dry_run=dry_run, tell=progress)

    def upkeep(self, health: Health | None = None, *, is_last: bool = False) -> Upkeep:
        """The work of ``ragstore maintain``, one round at a time.

        Args:
            health: gets the signs of life and the long steps; None if nothing watches them.
            is_last: no other round follows: merge segments as if nothing were being added.
        """
        from ragstore.app.writer import index_memory_mb
        from ragstore.worker.health import Health
        from ragstore.worker.upkeep import Upkeep

        return Upkeep(
            self._pool,
            self._writer().recoverer,
            min_nodes=self.settings.index_min_nodes,
            memory_mb=index_memory_mb(self.settings),
            health=health or Health(0),
            is_last=is_last,
        )

    # Questions

    def query(  # noqa: PLR0913 - one argument per choice of the person who asks
        self,
        text: str,
        *,
        collection: str | None = None,
        top_k: int | None = None,
        filters: Filter | None = None,
        mode: Mode = "hybrid",
        mmr_lambda: float | None = None,
        embedding: Sequence[float] | None = None,
        context: int = 0,
    ) -> Hits:
        """The nodes that answer best, best first; the list also says what its scores mean.

        If a filter matches nothing because no node has its key, the ``notes`` of the list and the log say so.

        Args:
            embedding: the question's vector, for collections whose model is ``external``.
            mmr_lambda: 0 to 1, weight of relevance against variety; None for relevance only.
            context: number of chunks on each side of a hit, of the same document, that are in ``Hit.context``, 0 to 50.

        Raises:
            CollectionNotFoundError, FilterError, EmbeddingSpaceError, UsageError
        """
        from ragstore.query.search import Question

        question = Question(
            text=text,
            vector=embedding,
            mode=mode,
            top_k=self.settings.top_k if top_k is None else top_k,
            filters=filters,
            dense_weight=self.settings.dense_weight,
            mmr_lambda=mmr_lambda,
            n_context=context,
        )
        hits = self._queries.hits(collection or self.settings.collection, question)
        for note in hits.notes:
            _notes.warning(note, action="query")
        return hits

    def ask(  # noqa: PLR0913 - one argument per choice of the person who asks
        self,
        text: str,
        *,
        collection: str | None = None,
        top_k: int | None = None,
        filters: Filter | None = None,
        mode: Mode = "hybrid",
        mmr_lambda: float | None = None,
        stream: Callable[[str], None] | None = None,
    ) -> Answer:
        """An answer from the configured LLM, with checked citations; without an LLM, the hits alone.

        Args:
            stream: called with each piece of the answer as the model writes it; together they are its ``text``.

        Raises:
            ModelError: the LLM gave no answer.
            CollectionNotFoundError, FilterError, EmbeddingSpaceError, UsageError: as ``query``.
        """
        from ragstore.app.queries import answered

        hits = self.query(text, collection=collection, top_k=top_k, filters=filters, mode=mode, mmr_lambda=mmr_lambda)
        return answered(self.settings, text, hits, stream)

    # LlamaIndex

    def storage_context(self, collection: str | None = None) -> StorageContext:
        """A LlamaIndex StorageContext on the collection; code that uses it needs no other change."""
        from ragstore.llama import storage_context

        found = self._collection(collection)
        return storage_context(self._backend(), found)

    def index(self, collection: str | None = None, *, embed_model: BaseEmbedding | None = None) -> VectorStoreIndex:
        """A LlamaIndex VectorStoreIndex on the collection.

        Args:
            embed_model: required if the collection's model is ``external``.
        """
        from ragstore.llama import vector_index

        return vector_index(self._backend(), self._collection(collection), embed_model=embed_model)

    def embed_model(self, collection: str | None = None) -> BaseEmbedding:
        """The collection's own embedding model, for LlamaIndex code that asks for one.

        Raises:
            UsageError: the collection's model is ``external``.
        """
        from ragstore.llama import own_embed_model

        return own_embed_model(self._backend(), self._collection(collection))

    # Parts

    def _backend(self) -> Backend:
        from ragstore.llama import Backend

        writer = self._writer()
        return Backend(
            pool=self._pool,
            client=writer.client,
            database=writer.database,
            nodes=writer.nodes,
            recoverer=writer.recoverer,
            worker=writer.worker,
            timing=writer.timing,
            embedder=self._models.of,
            indexer=writer.indexer,
        )

    @cached_property
    def _queries(self) -> Queries:
        from ragstore.app.queries import Queries

        return Queries(self._pool, self._models)

    def _target_collection(
        self, collection: str | None, model: str | None, filter_keys: Sequence[str]
    ) -> TargetCollection:
        from ragstore.app.transfer import TargetCollection

        return TargetCollection(collection or self.settings.collection, model, filter_keys)

    def _transfers(self) -> Transfers:
        from ragstore.app.transfer import Transfers

        return Transfers(self.settings, self._pool, self._writer(), self.create_collection, self._previewed)

    def _previewed(
        self, name: str, *, model: str | None, dim: int | None, model_if_new: str
    ) -> Collection | MadeCollection:
        """The collection with that name, checked; or the one that ``create_collection`` would make."""
        found = collections.find_collection(self._pool, checked_name(name))
        if found is not None:
            check_space(found, model, dim)
            return found
        space = chosen_space(self._models, model or model_if_new, dim)
        return MadeCollection(name, space.model, space.dim)

    def _collections_to_audit(self, name: str | None) -> list[tuple[Collection, int]]:
        """The collection with that name, or all; each with the ledger's count of its nodes."""
        wanted = None if name is None else collections.get_collection(self._pool, name).name
        return [
            (collections.get_collection(self._pool, summary.name), summary.nodes)
            for summary in collections.list_collections(self._pool)
            if wanted in (None, summary.name)
        ]

    def _writer(self) -> Writer:
        from ragstore.app.writer import open_writer

        with self._writer_lock:
            if self._is_closed:
                raise closed()
            if self._opened_writer is None:
                self._opened_writer = open_writer(self.settings, self._addresses, self._pool)
            return self._opened_writer

    def _target(
        self,
        paths: Sequence[str | Path],
        collection: str | None,
        follow_links: bool | None,
        selection: Selection,
    ) -> Target:
        from ragstore.app.ingestion import known_roots, target

        found = collections.find_collection(self._pool, checked_name(collection or self.settings.collection))
        roots = known_roots(self._pool, found, paths)
        return target(self.settings, roots, follow_links=follow_links, selection=selection)

    def _listing(self, read: Target, collection: str | None) -> Listing:
        """The listing; if a path does not exist but documents below it do, the error says what to do with them."""
        from ragstore.app.ingestion import of_moved_root

        try:
            return read.listing()
        except PathNotFoundError as error:
            found = collections.find_collection(self._pool, collection or self.settings.collection)
            raise (of_moved_root(self._pool, found, error) if found else None) or error from None

    def _collection(self, name: str | None) -> Collection:
        found = collections.get_collection(self._pool, name or self.settings.collection)
        self._models.check(found)
        return found

    def _collection_or_new(
        self, name: str | None, filter_keys: Sequence[str] = ()
    ) -> tuple[Collection, MadeCollection | None]:
        wanted = checked_name(name or self.settings.collection)
        found = collections.find_collection(self._pool, wanted)
        if found is None:
            # Check first that the databases belong together: a new, empty collection would answer wrongly.
            self._writer()
            made = self.create_collection(wanted, filter_keys=filter_keys)
            return made, MadeCollection(made.name, made.space.model, made.space.dim)
        self._models.check(found)
        return self._with_filter_keys(found, checked_filter_keys(filter_keys)), None


def open_ragstore(settings: Settings | None = None, *, starting: Callable[[], None] | None = None) -> Ragstore:
    """Open both databases by the settings; embedded ones are started and migrated.

    Args:
        starting: called before embedded servers are started.
    """
    settings = settings or Settings()
    addresses = reachable(settings, starting=starting)
    pool = postgres_pool(settings, addresses, size=settings.pool_size, statement_timeout_s=settings.statement_timeout_s)
    try:
        check_or_apply(settings, addresses, pool)
    except SchemaVersionError:
        pool.close()
        raise
    return Ragstore(settings, addresses, pool)
