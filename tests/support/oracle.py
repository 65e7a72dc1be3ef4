"""The judge of both stores: reads them with plain SQL and pymongo, and compares them with the sources' texts.

Nothing of ragstore's own code takes part. Sources must be plain text without characters that reading would change,
so that a node's span can be looked up in the source itself.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

State = dict[str, str]
"""What is live: document id → text of its source."""


@dataclass(frozen=True)
class Change:
    """Something that must have happened wholly or not at all, as a reader sees it."""

    before: State
    after: State

    @property
    def document_ids(self) -> set[str]:
        return {*self.before, *self.after}


@dataclass(frozen=True)
class Row:
    """One row of the vector table."""

    node_id: str
    document_id: str | None
    text: str
    ordinal: int
    start: int
    end: int
    metadata: dict[str, Any]
    user_metadata: dict[str, Any]
    dim: int


@dataclass(frozen=True)
class Shown:
    """One live row of the ledger."""

    revision: int
    n_nodes: int
    content_hash: str
    doc_hash: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """What one PostgreSQL transaction sees of a collection."""

    documents: dict[str, Shown]
    rows: list[Row]

    def of(self, document_id: str) -> list[Row]:
        return sorted((r for r in self.rows if r.document_id == document_id), key=lambda r: r.ordinal)


class Oracle:
    """Says what is wrong with a collection; an empty list is the best it can say."""

    def __init__(self, postgres_url: str, mongo: Database[dict[str, Any]], collection: str = "docs") -> None:
        self._url = postgres_url
        self._mongo = mongo.with_options(read_concern=ReadConcern("majority"))
        self._collection = collection

    # What readers see at any time

    def snapshot(self) -> Snapshot:
        with self._reading() as cursor:
            cursor.execute(
                "SELECT document_id, revision, n_nodes, content_hash, doc_hash, metadata FROM ragstore.document d "
                "JOIN ragstore.collection c USING (collection_id) "
                "WHERE c.name = %s AND d.deleted_at IS NULL AND d.revision > 0",
                (self._collection,),
            )
            documents = {row[0]: Shown(*row[1:]) for row in cursor.fetchall()}
            cursor.execute("SELECT to_regclass(%s)", (f'ragstore."data_{self._collection}"',))
            if cursor.fetchone() == (None,) and not documents:
                return Snapshot({}, [])  # of a collection that was dropped
            cursor.execute(
                "SELECT node_id, document_id, text, ordinal, start_char, end_char, metadata_, user_metadata, "
                f'vector_dims(embedding) FROM ragstore."data_{self._collection}"'
            )
            return Snapshot(documents, [Row(*row) for row in cursor.fetchall()])

    def visible_violations(self, changes: Sequence[Change], untouched: State | None = None) -> list[str]:
        """Whether each change is wholly old or wholly new, in search and in the bodies of what search finds."""
        seen = self.snapshot()
        wrong = list(self._row_violations(seen))
        for change in changes:
            live = {i for i in change.document_ids if i in seen.documents}
            if not any(
                live == set(state) and all(is_whole(seen.of(i), text) for i, text in state.items())
                for state in (change.before, change.after)
            ):
                wrong.append(f"neither old nor new: {sorted(change.document_ids)}, live {sorted(live)}")
        for document_id, text in (untouched or {}).items():
            if document_id not in seen.documents or not is_whole(seen.of(document_id), text):
                wrong.append(f"untouched document is hurt: {document_id}")
        expected = {*(untouched or {}), *(i for change in changes for i in change.document_ids)}
        wrong += [f"document nobody wrote: {i}" for i in seen.documents.keys() - expected]
        return wrong + list(self._body_violations(seen))

    # What both stores hold once nothing is under way

    def settled_violations(self, state: State) -> list[str]:
        """Whether both stores hold exactly these documents, with nothing left to do."""
        seen = self.snapshot()
        wrong = [f"document missing: {i}" for i in state.keys() - seen.documents.keys()]
        wrong += [f"document too many: {i}" for i in seen.documents.keys() - state.keys()]
        for document_id in state.keys() & seen.documents.keys():
            wrong += self._document_violations(seen, document_id, state[document_id])
        wrong += self._row_violations(seen)
        wrong += self._body_violations(seen)
        wrong += self._orphans(seen)
        wrong += self._entry_violations(seen)
        wrong += self._ledger_violations()
        return wrong

    def state_of(self, changes: Sequence[Change], untouched: State | None = None) -> State:
        """What is live now, where each change is wholly old or wholly new; what is neither counts as old."""
        seen = self.snapshot()
        state = dict(untouched or {})
        for change in changes:
            is_new = all(is_whole(seen.of(i), text) for i, text in change.after.items())
            gone = change.before.keys() - change.after.keys()
            state |= change.after if is_new and not gone & seen.documents.keys() else change.before
        return state

    def assert_visible(self, changes: Sequence[Change], untouched: State | None = None) -> None:
        wrong = self.visible_violations(changes, untouched)
        assert not wrong, "\n".join(wrong[:20])

    def assert_settled(self, state: State) -> None:
        wrong = self.settled_violations(state)
        assert not wrong, "\n".join(wrong[:20])

    # Parts

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        connection = psycopg2.connect(self._url, application_name="oracle")
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def _document_violations(self, seen: Snapshot, document_id: str, text: str) -> list[str]:
        shown, rows = seen.documents[document_id], seen.of(document_id)
        wrong = []
        if not is_whole(rows, text):
            wrong.append(f"nodes are not those of the source: {document_id}")
        if shown.n_nodes != len(rows):
            wrong.append(f"ledger says {shown.n_nodes} nodes, there are {len(rows)}: {document_id}")
        if shown.content_hash != hashlib.blake2b(text.encode(), digest_size=16).hexdigest():
            wrong.append(f"content hash is not the source's: {document_id}")
        return wrong

    def _row_violations(self, seen: Snapshot) -> Iterator[str]:
        for node_id, n in Counter(r.node_id for r in seen.rows).items():
            if n > 1:
                yield f"node is there {n} times: {node_id}"
        for row in seen.rows:
            if row.document_id not in seen.documents:
                yield f"row of a document that is not live: {row.document_id}, node {row.node_id}"
            content = json.loads(row.metadata["_node_content"])
            if content["id_"] != row.node_id or content["text"] or content["metadata"] != row.user_metadata:
                yield f"row's _node_content is another's: {row.node_id}"
            if {row.metadata[k] for k in ("document_id", "doc_id", "ref_doc_id")} != {row.document_id}:
                yield f"row's metadata_ names another document: {row.node_id}"
        for document_id, shown in seen.documents.items():
            if shown.n_nodes != len(seen.of(document_id)):
                yield f"{len(seen.of(document_id))} rows where the ledger says {shown.n_nodes}: {document_id}"

    def _body_violations(self, seen: Snapshot) -> Iterator[str]:
        """Every node that search can find must have its body in MongoDB, at all times."""
        wanted = {"_id": {"$in": [row.node_id for row in seen.rows]}}
        bodies = {body["_id"]: body for body in self._mongo[f"{self._collection}/data"].find(wanted)}
        for document_id in seen.documents:
            rows = seen.of(document_id)
            for i, row in enumerate(rows):
                neighbours = (rows[i - 1].node_id if i else None, rows[i + 1].node_id if i + 1 < len(rows) else None)
                body = bodies.get(row.node_id)
                if body is None:
                    yield f"live node has no body in MongoDB: {row.node_id} of {document_id}"
                elif wrong := _body_violation(body, row, neighbours):
                    yield f"{wrong}: {row.node_id} of {document_id}"

    def _orphans(self, seen: Snapshot) -> list[str]:
        ids = {body["_id"] for body in self._mongo[f"{self._collection}/data"].find({}, {"_id": 1})}
        orphans = sorted(ids - {row.node_id for row in seen.rows})
        return [f"{len(orphans)} orphans in MongoDB, such as {orphans[0]}"] if orphans else []

    def _entry_violations(self, seen: Snapshot) -> Iterator[str]:
        infos = {entry["_id"]: entry for entry in self._mongo[f"{self._collection}/ref_doc_info"].find({})}
        hashes = {entry["_id"]: entry for entry in self._mongo[f"{self._collection}/metadata"].find({})}
        for name, entries in (("ref_doc_info", infos), ("metadata", hashes)):
            for document_id in entries.keys() - seen.documents.keys():
                yield f"{name} of a document that is gone: {document_id}"
            for document_id in seen.documents.keys() - entries.keys():
                yield f"{name} is missing: {document_id}"
        for document_id in infos.keys() & hashes.keys() & seen.documents.keys():
            shown, info = seen.documents[document_id], infos[document_id]
            if info["node_ids"] != [row.node_id for row in seen.of(document_id)]:
                yield f"ref_doc_info names other nodes: {document_id}"
            if info["metadata"] != shown.metadata or info["metadata"].get("file_path") != document_id:
                yield f"ref_doc_info has other metadata: {document_id}"
            if hashes[document_id]["doc_hash"] != shown.doc_hash:
                yield f"metadata has another hash: {document_id}"

    def _ledger_violations(self) -> Iterator[str]:
        with self._reading() as cursor:
            for table in ("run", "outbox", "quarantine"):
                cursor.execute(f"SELECT count(*), min(t::text) FROM ragstore.{table} t")
                n, first = cursor.fetchone()
                if n:
                    yield f"{n} rows left in {table}, such as {first[:300]}"
            # Each revision has exactly one event, and the last one says whether the document is live. A reconciliation
            # goes on above what another timeline had.
            cursor.execute(
                "SELECT d.document_id, d.revision, d.deleted_at IS NULL, "
                "array_agg(e.revision ORDER BY e.event_id), array_agg(e.action ORDER BY e.event_id) "
                "FROM ragstore.document d JOIN ragstore.collection c USING (collection_id) LEFT JOIN ragstore.event e "
                "ON e.collection = c.name AND e.document_id = d.document_id AND e.revision IS NOT NULL "
                "WHERE c.name = %s AND d.revision > 0 GROUP BY 1, 2, 3",
                (self._collection,),
            )
            for document_id, revision, live, revisions, actions in cursor.fetchall():
                if not _follow(revisions, actions) or revisions[-1] != revision:
                    yield f"history has revisions {revisions}, the document is at {revision}: {document_id}"
                if live == (actions[-1] in ("deleted", "set_aside")):
                    yield f"history ends with {actions[-1]}, but live is {live}: {document_id}"


def _follow(revisions: Sequence[int], actions: Sequence[str]) -> bool:
    jumps = [action in ("reconciled", "set_aside") for action in actions]
    steps = zip([0, *revisions[:-1]], revisions, jumps, strict=True)
    return all(new > old if may_jump else new == old + 1 for old, new, may_jump in steps)


def is_whole(rows: Sequence[Row], text: str) -> bool:
    """Whether these rows, in order, are spans of the text that leave out nothing but white space."""
    if [row.ordinal for row in rows] != list(range(len(rows))):
        return False
    return is_covered([(row.start, row.end, row.text) for row in rows], text)


def is_covered(spans: Sequence[tuple[int, int, str]], text: str) -> bool:
    """Whether these spans (start, end, text), each beginning after the one before, leave out nothing but white space."""
    covered, former = 0, -1
    for start, end, part in spans:
        if start <= former or text[start:end] != part or text[covered:start].strip():
            return False
        covered, former = max(covered, end), start
    return bool(spans) and not text[covered:].strip()


def _body_violation(body: dict[str, Any], row: Row, neighbours: tuple[str | None, str | None]) -> str | None:
    data = body["__data__"]
    if data["text"] != row.text:
        return "body has another text"
    if data["id_"] != row.node_id or data["metadata"] != row.user_metadata or body["__type__"] != "1":
        return "body is another's"
    related = {key: value["node_id"] for key, value in data["relationships"].items()}
    wanted = {"1": row.document_id, "2": neighbours[0], "3": neighbours[1]}
    if related != {key: value for key, value in wanted.items() if value is not None}:
        return "body has other neighbours"
    return None
