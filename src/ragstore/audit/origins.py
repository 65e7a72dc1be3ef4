"""Verdict on a body that PostgreSQL does not know: garbage of a dead run, a lost node, or undecidable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from ragstore.mongo.scan import MongoScan, Origin
from ragstore.postgres.scan import LedgerLine, PostgresScan

Verdict = Literal["garbage", "lost", "kept"]

_LOST = "its document has lost it"
_WHOLE = "its document is whole without it"
_TOO_NEW = "is newer than a run in flight, or than all that the ledger has seen"


@dataclass(frozen=True, slots=True)
class UnknownBody:
    """A body that PostgreSQL neither has nor is about to delete.

    Args:
        verdict: ``lost`` if PostgreSQL must have had it; ``garbage`` if it was never published, or if its document was
            deleted or is complete without it; ``kept`` if neither can be proved.
        ordinal: position among the nodes of its document, if that is known.
        has_vector: False for a node that only the docstore had.
    """

    origin: Origin
    verdict: Verdict
    reason: str
    line: LedgerLine | None = None
    ordinal: int = 0
    has_vector: bool = True

    @property
    def document_id(self) -> str | None:
        """Id of the document it belonged to; the node of a document itself names none."""
        if self.origin.document_id is None and self.line is not None:
            return self.line.document_id
        return self.origin.document_id


def judged(postgres: PostgresScan, mongo: MongoScan, origins: Sequence[Origin]) -> list[UnknownBody]:
    """A verdict on each of these bodies, from the ledger, the audit trail and MongoDB's entries."""
    # A node without a source in the document store is a document of its own.
    documents = list({o.document_id or o.node_id for o in origins})
    lines = postgres.lines_of(documents)
    evidence = _Evidence(
        lines=lines,
        whole=_whole(postgres, mongo, lines.values()),
        entries=mongo.entries_of("ref_doc_info", documents),
        published=postgres.ever_published(documents),
        abandoned_before=postgres.abandoned_before(),
    )
    return [_judge(origin, evidence) for origin in origins]


@dataclass(frozen=True, slots=True)
class _Evidence:
    lines: Mapping[str, LedgerLine]
    whole: set[str]
    entries: Mapping[str, dict[str, Any]]
    published: set[str]
    abandoned_before: float


def _judge(origin: Origin, evidence: _Evidence) -> UnknownBody:
    if not isinstance(origin.stamp, int) or isinstance(origin.stamp, bool):
        return UnknownBody(origin, "kept", "another program wrote it")
    if origin.document_id is None:
        return _judge_without_source(origin, evidence.lines.get(origin.node_id))
    line = evidence.lines.get(origin.document_id)
    entry = evidence.entries.get(origin.document_id, {})
    if line is None or not line.known:
        return _judge_without_ledger(origin, line, entry, evidence)
    if _is_newer(entry, line.revision) and origin.node_id in entry.get("node_ids", ()):
        return UnknownBody(origin, "kept", "MongoDB has a newer revision of its document than the ledger", line)
    verdict = _judge_by_ledger(origin, line, entry)
    if verdict.verdict == "kept" and origin.document_id in evidence.whole:
        verdict = UnknownBody(origin, "garbage", _WHOLE, line)
    made_at = _staged_at(origin)
    if verdict.verdict == "garbage" and made_at is not None and made_at >= evidence.abandoned_before:
        return UnknownBody(origin, "kept", _TOO_NEW, line)
    return verdict


def _whole(postgres: PostgresScan, mongo: MongoScan, lines: Iterable[LedgerLine]) -> set[str]:
    """Ids of documents that lost no node: they have as many rows as the ledger counts, and each row has a body."""
    counted = [line.document_id for line in lines if line.live and line.n_nodes == line.n_rows > 0]
    if not counted:
        return set()
    named = {i: doc.node_ids or [] for i, doc in postgres.ref_docs(counted).items()}
    here = mongo.present([node_id for node_ids in named.values() for node_id in node_ids])
    return {document_id for document_id, node_ids in named.items() if here.issuperset(node_ids)}


def _judge_without_source(origin: Origin, own: LedgerLine | None) -> UnknownBody:
    if origin.stamp == 0:
        return UnknownBody(origin, "kept", "names no document")
    if own is None or not own.known:
        return UnknownBody(origin, "lost", "was live without a document")
    if not own.live:
        return UnknownBody(origin, "garbage", "its document was deleted", own)
    return UnknownBody(origin, "lost", _LOST, own, 0, has_vector=own.n_nodes > own.n_rows)


def _judge_without_ledger(
    origin: Origin, line: LedgerLine | None, entry: Mapping[str, Any], evidence: _Evidence
) -> UnknownBody:
    if origin.node_id in entry.get("node_ids", ()) or (origin.node_id == origin.document_id and entry):
        return UnknownBody(origin, "lost", "the ledger lost its document", line)
    made_at = _staged_at(origin)
    if made_at is None or entry or line is not None or origin.document_id in evidence.published:
        return UnknownBody(origin, "kept", "the ledger does not know its document", line)
    if made_at >= evidence.abandoned_before:
        return UnknownBody(origin, "kept", _TOO_NEW, line)
    return UnknownBody(origin, "garbage", "was never published", line)


def _judge_by_ledger(origin: Origin, line: LedgerLine, entry: Mapping[str, Any]) -> UnknownBody:
    if not line.live:
        return UnknownBody(origin, "garbage", "its document was deleted", line)
    named: list[str] = list(entry.get("node_ids", ())) if entry.get("stamp") == line.revision else []
    lacking = line.n_nodes - line.n_rows
    if origin.node_id in named:
        return _judge_named(origin, line, named.index(origin.node_id))
    if origin.node_id == origin.document_id and origin.stamp > 0:
        return UnknownBody(origin, "lost", _LOST, line, 0, has_vector=False)
    if lacking > 0 and not entry and origin.source_hash is not None and origin.source_hash == line.content_hash:
        return UnknownBody(origin, "lost", "cut from the content that its document has", line)
    if lacking <= 0 and _staged_at(origin) is not None:
        return UnknownBody(origin, "garbage", _WHOLE, line)
    return UnknownBody(origin, "kept", "cannot be told from a lost node", line)


def _judge_named(origin: Origin, line: LedgerLine, position: int) -> UnknownBody:
    # An entry names the nodes with a vector first.
    has_vector = position < line.n_nodes
    if has_vector and line.n_rows >= line.n_nodes:
        return UnknownBody(origin, "kept", "its document has all its vectors", line)
    return UnknownBody(origin, "lost", _LOST, line, position, has_vector)


def _is_newer(entry: Mapping[str, Any], revision: int) -> bool:
    stamp = entry.get("stamp")
    return isinstance(stamp, int) and stamp > revision


def _staged_at(origin: Origin) -> float | None:
    """When a run staged the node, seconds since 1970; None for a node that no run staged."""
    if origin.stamp != 0:
        return None
    try:
        made = UUID(origin.node_id)
    except ValueError:
        return None
    return (made.int >> 80) / 1000 if made.version == 7 else None
