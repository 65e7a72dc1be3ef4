"""Survey of the documents of a collection: the ledger against rows, MongoDB's entries against the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragstore.audit.nodes import aligned, prefetched
from ragstore.model.run import RefDoc
from ragstore.mongo.client import Document
from ragstore.mongo.scan import Entries, MongoScan
from ragstore.postgres.scan import LedgerLine, LiveDocument, PostgresScan

_AT_ONCE = 1_000
_KINDS: tuple[Entries, Entries] = ("ref_doc_info", "metadata")


@dataclass(frozen=True, slots=True)
class StaleEntry:
    """An entry of a document that differs from the ledger.

    Args:
        kind: ``ref_doc_info`` or ``metadata``.
        expected: the correct state; ``node_ids`` is None if the entry must not exist.
        found: the entry; None if it is missing.
    """

    kind: Entries
    expected: RefDoc
    found: Document | None

    @property
    def document_id(self) -> str:
        return self.expected.document_id


@dataclass(slots=True)
class DocumentDrift:
    """Confirmed drift among about a thousand documents.

    Args:
        unknown: documents that have rows, but no live line in the ledger.
        miscounted: documents with another number of rows than in the ledger; MongoDB does not have the difference.
        stale: entries to bring up to date.
        unexplained: entries of documents that the ledger does not know, and which have nodes in MongoDB.
    """

    unknown: list[LedgerLine] = field(default_factory=list)
    miscounted: list[LedgerLine] = field(default_factory=list)
    stale: list[StaleEntry] = field(default_factory=list)
    unexplained: list[Document] = field(default_factory=list)


class DocumentSurvey:
    """Compares all documents of a collection.

    Args:
        deep: also compare the nodes that an entry names.
        with_evidence: an entry that names nodes which only MongoDB has counts as evidence that PostgreSQL lost them.
    """

    def __init__(self, postgres: PostgresScan, mongo: MongoScan, *, deep: bool, with_evidence: bool = True) -> None:
        self._with_evidence = with_evidence
        self._postgres = postgres
        self._mongo = mongo
        self._deep = deep
        self.n_documents = 0

    def drift(self) -> Iterator[DocumentDrift]:
        """Confirmed drift, in batches; ``n_documents`` is complete at the end."""
        yield from self._ledger_drift()
        for kind in _KINDS:
            yield from self._entry_drift(kind)

    def _ledger_drift(self) -> Iterator[DocumentDrift]:
        for lines in prefetched(self._postgres.ledger()):
            self.n_documents += sum(line.live for line in lines)
            unknown = [line for line in lines if not line.live]
            miscounted = [line for line in lines if line.live and line.n_rows != line.n_nodes]
            if unknown or miscounted:
                yield DocumentDrift(unknown=unknown, miscounted=self._unexplained_counts(miscounted))

    def _unexplained_counts(self, lines: Sequence[LedgerLine]) -> list[LedgerLine]:
        """These lines, but not those whose missing nodes MongoDB still has: these count as lost nodes."""
        if not lines:
            return []
        entries = self._mongo.entries_of("ref_doc_info", [line.document_id for line in lines])
        named = {
            line.document_id: list(entry["node_ids"])[: line.n_nodes]
            for line in lines
            if (entry := entries.get(line.document_id)) and entry.get("stamp") == line.revision
        }
        here = [line for line in lines if line.n_rows < line.n_nodes and line.document_id in named]
        ids = [i for line in here for i in named[line.document_id]]
        missing = set(ids).difference(self._postgres.states(ids).live) if ids else set()
        in_mongo = self._mongo.present(list(missing)) if missing else set()
        explained = {
            line.document_id
            for line in here
            if len(in_mongo.intersection(named[line.document_id])) == line.n_nodes - line.n_rows
        }
        return [line for line in lines if line.document_id not in explained]

    def _entry_drift(self, kind: Entries) -> Iterator[DocumentDrift]:
        suspects: list[str] = []
        pieces = aligned(
            prefetched(self._postgres.live_documents()),
            prefetched(self._mongo.entries(kind)),
            left_key=lambda line: line.document_id,
            right_key=lambda entry: str(entry["_id"]),
        )
        for lines, entries in pieces:
            suspects += self._suspects(kind, lines, entries)
            while len(suspects) >= _AT_ONCE:
                yield self._confirmed(kind, suspects[:_AT_ONCE])
                del suspects[:_AT_ONCE]
        if suspects:
            yield self._confirmed(kind, suspects)

    def _suspects(self, kind: Entries, lines: Sequence[LiveDocument], entries: Sequence[Document]) -> list[str]:
        stored = {entry["_id"]: entry for entry in entries}
        wrong = []
        for line in lines:
            entry = stored.pop(line.document_id, None)
            same = entry is not None and entry.get("stamp") == line.revision
            if kind == "metadata":
                same = same and entry is not None and entry.get("doc_hash") == (line.doc_hash or "")
            if self._deep or not same:
                wrong.append(line.document_id)
        return wrong + list(stored)

    def _confirmed(self, kind: Entries, document_ids: Sequence[str]) -> DocumentDrift:
        """Drift among these entries. As for nodes, the ledger is read before and after MongoDB.

        An entry is only judged if the ledger says the same both times, and nothing of it is pending.
        """
        before = self._postgres.ref_docs(document_ids)
        pending = self._postgres.pending_entries(document_ids)
        stored = self._mongo.entries_of(kind, document_ids)
        after = self._postgres.ref_docs(document_ids)
        pending |= self._postgres.pending_entries(document_ids)
        stale = []
        for document_id in document_ids:
            expected = before.get(document_id, RefDoc(document_id, 0, None))
            if document_id in pending or expected != after.get(document_id, RefDoc(document_id, 0, None)):
                continue
            entry = stored.get(document_id)
            if not is_entry_of(kind, entry, expected):
                stale.append(StaleEntry(kind, expected, entry))
        return self._without_evidence(stale)

    def _without_evidence(self, stale: Sequence[StaleEntry]) -> DocumentDrift:
        """These entries as drift, without those that name nodes which only MongoDB has: they are evidence, and stay."""
        if not self._with_evidence:
            return DocumentDrift(stale=list(stale))
        drift = DocumentDrift()
        entries = self._mongo.entries_of("ref_doc_info", [each.document_id for each in stale]) if stale else {}
        named = [i for entry in entries.values() for i in entry.get("node_ids", ())]
        only_in_mongo = self._mongo.present(named).difference(self._postgres.states(named).live) if named else set()
        for each in stale:
            entry: dict[str, Any] = entries.get(each.document_id, {})
            if only_in_mongo.isdisjoint(entry.get("node_ids", ())):
                drift.stale.append(each)
            elif each.expected.node_ids is None and each.kind == "ref_doc_info":
                drift.unexplained.append(entry)
        return drift


def is_entry_of(kind: Entries, entry: Document | None, expected: RefDoc) -> bool:
    """Whether an entry agrees with the ledger; both may say that there is none."""
    if entry is None or expected.node_ids is None:
        return entry is None and expected.node_ids is None
    if entry.get("stamp") != expected.revision:
        return False
    if kind == "metadata":
        return bool(entry.get("doc_hash") == (expected.doc_hash or ""))
    return bool(entry.get("node_ids") == expected.node_ids and entry.get("metadata") == expected.metadata)
