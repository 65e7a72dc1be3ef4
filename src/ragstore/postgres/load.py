"""PostgreSQL side of a restore: a vector table that nothing knows is filled and indexed, then one transaction uses it.

The table of a collection that is being restored has the name of a collection that does not exist, so that no reader
and no writer finds it. Its comment says which restore it belongs to. Ledger rows are loaded by the transaction that
gives the tables their names.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from ragstore.errors import RefusedError, StoreSetupError, as_owner
from ragstore.model.collection import Collection
from ragstore.model.node import TYPE_KEYS, VECTOR_STORE, LiveNode, content_with_text
from ragstore.postgres import epoch, segments, statements
from ragstore.postgres.collections import find_collection, to_collection
from ragstore.postgres.copy import HEADER, TRAILER
from ragstore.postgres.names import quoted_literal
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import BEGIN_SNAPSHOT, cursor_pages, execute, fetch, fetch_first, fetch_ids
from ragstore.postgres.vectors import decoded_vector

_UNLIMITED = "SET LOCAL statement_timeout = 0"
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"
"""Readers queue behind a transaction that waits for the table of a collection that is replaced."""

_INDEX_MEMORY = "SET LOCAL maintenance_work_mem = '256MB'"
_PREFIX = "restoring-"
_TOKEN = 16
_PAGE = 1_000

_LOADING = """
SELECT c.relname, coalesce(obj_description(c.oid, 'pg_class'), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'ragstore' AND c.relkind = 'r' AND c.relname LIKE 'data\\_restoring-%'
"""
_INDEXES = """
SELECT i.relname, k.conname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = x.indrelid
WHERE x.indrelid = %(table)s::regclass AND NOT x.indisprimary
"""
_ALL_INDEXES = """
SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = %(table)s::regclass
"""
_MAY_CREATE = """
SELECT has_schema_privilege('ragstore', 'CREATE'), pg_get_userbyid(nspowner)
FROM pg_namespace WHERE nspname = 'ragstore'
"""
_COLUMNS = """
SELECT attname, attidentity <> '' FROM pg_attribute
WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""
_TAKEN_STRUCTS = """
SELECT l.index_id, l.kind, l.body FROM loading_index_struct l
WHERE EXISTS (SELECT FROM ragstore.index_struct o WHERE o.index_id = l.index_id) ORDER BY l.index_id
"""
_RENAME_STRUCT = "UPDATE loading_index_struct SET index_id = %(new)s, body = %(body)s WHERE index_id = %(old)s"
_STRUCT_IDS = "SELECT index_id FROM ragstore.index_struct UNION SELECT index_id FROM loading_index_struct"
# The trail of a collection that is replaced stays, and is not written twice.
_EVENTS = """
INSERT INTO ragstore.event ({columns}, collection)
SELECT {columns}, %(name)s FROM loading_event l WHERE NOT EXISTS (
    SELECT FROM ragstore.event e WHERE e.collection = %(name)s AND e.at = l.at AND e.action = l.action
        AND e.document_id IS NOT DISTINCT FROM l.document_id AND e.revision IS NOT DISTINCT FROM l.revision
) ORDER BY event_id
"""
_RESTORED = """
INSERT INTO ragstore.event (worker, collection, action, detail)
VALUES (%(worker)s, %(name)s, 'restored', %(detail)s::jsonb)
"""
_WHICH_RESTORED = """
SELECT detail FROM ragstore.event WHERE collection = %(name)s AND action = 'restored' ORDER BY event_id DESC LIMIT 1
"""
# Revisions go on above those that the audit trail has seen. A document that is live by it and was not restored, or that
# was at another revision, gets one more event.
_RAISE_REVISIONS = """
WITH latest AS (
    SELECT DISTINCT ON (document_id) document_id, max(revision) OVER (PARTITION BY document_id) AS revision, action
    FROM ragstore.event WHERE collection = %(name)s AND document_id IS NOT NULL AND revision > 0
    ORDER BY document_id, event_id DESC
), behind AS (
    SELECT l.document_id, l.revision, d.deleted_at IS NULL AND d.document_id IS NOT NULL AS live,
        d.document_id IS NULL AND l.action IN ('deleted', 'set_aside') AS is_known
    FROM latest l LEFT JOIN ragstore.document d
        ON d.collection_id = %(collection_id)s AND d.document_id = l.document_id
    WHERE d.document_id IS NULL OR d.revision < l.revision
), raised AS (
    INSERT INTO ragstore.document (collection_id, document_id, source_uri, revision, deleted_at)
    SELECT %(collection_id)s, document_id, '', revision + CASE WHEN is_known THEN 0 ELSE 1 END, now() FROM behind
    ON CONFLICT (collection_id, document_id) DO UPDATE SET revision = excluded.revision
)
INSERT INTO ragstore.event (worker, collection, document_id, revision, action)
SELECT %(worker)s, %(name)s, document_id, revision + 1, CASE WHEN live THEN 'reconciled' ELSE 'deleted' END
FROM behind WHERE NOT is_known ORDER BY document_id
"""
_LIVE = """
SELECT node_id, id, metadata_->>'_node_type', metadata_->>'_node_content', text FROM {table}
"""
_SAMPLE = """
SELECT node_id, vector_send(embedding::vector) FROM (
    SELECT *, row_number() OVER (ORDER BY id) AS place, count(*) OVER () AS n_rows FROM {table}
) AS placed WHERE place %% greatest(1, n_rows / %(n)s) = 0 ORDER BY id LIMIT %(n)s
"""
_LIVE_BODIES = "SELECT node_id, stamp, type_key, content FROM ragstore.body WHERE collection_id = %(collection_id)s"


@dataclass(frozen=True, slots=True)
class Loading:
    """A collection that is being restored.

    Args:
        name: its name in the end.
        settings: the columns of its row, in PostgreSQL's text form.
        token: names the restore; the same restore, run again, has the same.
        collection_id: its id in the end.
    """

    name: str
    settings: Mapping[str, str | None]
    token: str
    collection_id: int

    @property
    def table(self) -> str:
        """Its vector table until the end."""
        return f'ragstore."data_{_PREFIX}{self.token}"'

    @property
    def hidden_name(self) -> str:
        return f"{_PREFIX}{self.token}"


def token_of(backup: str, source: str, name: str) -> str:
    """The token of the restore of a collection of this backup under this name."""
    return hashlib.blake2b(f"{backup}\n{source}\n{name}".encode(), digest_size=_TOKEN // 2).hexdigest()


def require_owner(pool: PostgresPool) -> None:
    """Refuse a role that cannot make tables, before anything is changed.

    Raises:
        StoreSetupError
    """
    ((may_create, owner),) = fetch(pool, _MAY_CREATE)
    if not may_create:
        raise StoreSetupError(
            f"a restore makes tables, which the role {owner} alone may do", hint=as_owner("restore", owner), owner=owner
        )


def loading_names(pool: PostgresPool) -> set[str]:
    """Tokens of all restores that have a table."""
    return {row[0].removeprefix(f"data_{_PREFIX}") for row in fetch(pool, _LOADING)}


def abandon(pool: PostgresPool, tokens: Iterable[str]) -> None:
    """Drop tables of restores that are not gone on with.

    Crash safety:
        One transaction.
    """
    with pool.transaction() as cursor:
        for token in sorted(tokens):
            cursor.execute(f'DROP TABLE IF EXISTS ragstore."data_{_PREFIX}{token}"')


def make_table(pool: PostgresPool, name: str, settings: Mapping[str, str | None], token: str) -> Loading:
    """Make the empty vector table of a collection that is to be restored, or find the one of a killed restore.

    Crash safety:
        One transaction, idempotent.
    """
    found = {row[0]: row[1] for row in fetch(pool, _LOADING)}.get(f"data_{_PREFIX}{token}")
    if found is not None:
        return Loading(name, settings, token, int(orjson.loads(found)["collection_id"]))
    with pool.transaction() as cursor:
        collection_id = int(
            fetch_first(cursor, "SELECT nextval(pg_get_serial_sequence('ragstore.collection', 'collection_id'))")
        )
        loading = Loading(name, settings, token, collection_id)
        with _as_collection(cursor, loading):
            cursor.execute(statements.ENSURE_COLLECTION_TABLE, {"name": loading.hidden_name})
        for index, constraint in fetch(cursor, _INDEXES, table=loading.table):
            if constraint is not None:
                cursor.execute(f'ALTER TABLE {loading.table} DROP CONSTRAINT "{constraint}"')
            else:
                cursor.execute(f'DROP INDEX ragstore."{index}"')
        comment = orjson.dumps({"collection_id": collection_id}).decode()
        cursor.execute(f"COMMENT ON TABLE {loading.table} IS {quoted_literal(comment)}")
    return loading


@contextmanager
def _as_collection(cursor: Cursor, loading: Loading) -> Iterator[None]:
    """The row of a collection for the table, for the length of the block; nobody else sees it."""
    _insert_collection(cursor, loading, loading.hidden_name)
    yield
    cursor.execute("DELETE FROM ragstore.collection WHERE collection_id = %s", [loading.collection_id])


def _insert_collection(cursor: Cursor, loading: Loading, name: str) -> None:
    known = {row[0] for row in fetch(cursor, _COLUMNS, table="ragstore.collection")}
    values = {k: v for k, v in loading.settings.items() if k in known and k not in ("name", "collection_id")}
    names = ["collection_id", "name", *values]
    placed = ", ".join(["%s"] * len(names))
    listed = ", ".join(f'"{each}"' for each in names)
    cursor.execute(
        f"INSERT INTO ragstore.collection ({listed}) OVERRIDING SYSTEM VALUE VALUES ({placed})",
        [loading.collection_id, name, *values.values()],
    )


def unknown_settings(pool: PostgresPool, settings: Mapping[str, str | None]) -> list[str]:
    """Columns that the row of a collection does not have in this schema."""
    known = {row[0] for row in fetch(pool, _COLUMNS, table="ragstore.collection")}
    return sorted(set(settings) - known)


def has_row(pool: PostgresPool, loading: Loading, row_id: int) -> bool:
    """Whether the table has this row; rows of a pack come and stay together."""
    return bool(fetch_first(pool, f"SELECT EXISTS (SELECT FROM {loading.table} WHERE id = %(id)s)", id=row_id))


def copy_rows(pool: PostgresPool, loading: Loading, columns: Sequence[str], rows: Iterable[bytes]) -> int:
    """Add rows in the binary COPY format; returns how many.

    Crash safety:
        One transaction.
    """
    with pool.transaction() as cursor:
        cursor.execute(_UNLIMITED)
        copying = f"COPY {loading.table} ({_listed(columns)}) FROM STDIN (FORMAT binary)"
        cursor.copy_expert(copying, _Pieces([HEADER, *rows, TRAILER]), size=1 << 18)
        return int(cursor.rowcount)


def build_indexes(pool: PostgresPool, loading: Loading) -> None:
    """Build the indexes of a filled table, as far as they are missing.

    Crash safety:
        One transaction, idempotent.
    """
    with pool.transaction() as cursor:
        cursor.execute(f"{_UNLIMITED}; {_INDEX_MEMORY}")
        with _as_collection(cursor, loading):
            cursor.execute(statements.ENSURE_COLLECTION_TABLE, {"name": loading.hidden_name})
        unique = f"data_{loading.hidden_name}_node_id_key"
        if unique not in fetch_ids(cursor, _ALL_INDEXES, table=loading.table):
            cursor.execute(f'ALTER TABLE {loading.table} ADD CONSTRAINT "{unique}" UNIQUE (node_id)')
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {loading.table}")


def count_rows(pool: PostgresPool, loading: Loading) -> int:
    return int(fetch_first(pool, f"SELECT count(*) FROM {loading.table}"))


class Switch:
    """Steps of the transaction that makes restored collections live, in this order."""

    def __init__(self, cursor: Cursor, *, worker: str) -> None:
        self._cursor = cursor
        self._worker = worker
        self.notes: list[str] = []

    def begin_epoch(self, *, mongo_epoch: int, bound: int) -> int:
        """End the present epoch for all writers, waiting for those under way; returns the new one."""
        return epoch.begin_in(self._cursor, mongo_epoch=mongo_epoch, bound=bound, worker=self._worker)

    def replace(self, collection: Collection) -> None:
        """Drop a collection, with all that refers to it."""
        execute(self._cursor, "DROP TABLE IF EXISTS {table}", collection)
        segments.drop_all(self._cursor, collection)
        execute(self._cursor, "DELETE FROM ragstore.collection WHERE collection_id = %(collection_id)s", collection)

    def make(self, loading: Loading, tables: Mapping[str, tuple[Sequence[str], Iterable[bytes]]]) -> Collection:
        """Make a restored collection: its row, its vector table, and its part of the ledger.

        Args:
            tables: columns, and rows as lines of text, of each ledger table; parents before what refers to them.
        """
        _insert_collection(self._cursor, loading, loading.name)
        self._rename(loading)
        for table, (columns, rows) in tables.items():
            self._load(loading, table, columns, rows)
        parameters = {"name": loading.name, "collection_id": loading.collection_id, "worker": self._worker}
        self._cursor.execute(_RAISE_REVISIONS, parameters)
        self._cursor.execute(statements.GET_COLLECTION, parameters)
        return to_collection(self._cursor.fetchone())

    def note(self, name: str, detail: Mapping[str, Any]) -> None:
        """Add the event that says what was restored."""
        packed = orjson.dumps(detail).decode()
        self._cursor.execute(_RESTORED, {"worker": self._worker, "name": name, "detail": packed})

    def _rename(self, loading: Loading) -> None:
        hidden, final = f"data_{loading.hidden_name}", f"data_{loading.name}"
        for index in fetch_ids(self._cursor, _ALL_INDEXES, table=loading.table):
            if index.startswith(hidden):
                renamed = f"{final}{index.removeprefix(hidden)}"
                self._cursor.execute(f'ALTER INDEX ragstore."{index}" RENAME TO "{renamed}"')
        self._cursor.execute(f"COMMENT ON TABLE {loading.table} IS NULL")
        self._cursor.execute(f'ALTER TABLE {loading.table} RENAME TO "{final}"')

    def _load(self, loading: Loading, table: str, columns: Sequence[str], rows: Iterable[bytes]) -> None:
        cursor = self._cursor
        known = {row[0]: row[1] for row in fetch(cursor, _COLUMNS, table=f"ragstore.{table}")}
        left_out = sorted(set(columns) - known.keys())
        if left_out:
            self.notes.append(f"columns of an older schema left out: {table} {', '.join(left_out)}")
        # A table of its own, because the rows do not say of which collection they are, and may have older columns.
        cursor.execute(
            f"CREATE TEMP TABLE loading_{table} ON COMMIT DROP AS SELECT * FROM ragstore.{table} WITH NO DATA"
        )
        for each in left_out:
            cursor.execute(f'ALTER TABLE loading_{table} ADD COLUMN "{each}" text')
        cursor.copy_expert(f"COPY loading_{table} ({_listed(columns)}) FROM STDIN", _Pieces(rows), size=1 << 18)
        taken = [each for each in columns if each in known]
        parameters: dict[str, Any] = {"name": loading.name, "collection_id": loading.collection_id}
        if table == "event":
            listed = _listed([each for each in taken if each != "event_id"])
            cursor.execute(_EVENTS.format(columns=listed), parameters)
        else:
            if table == "index_struct":
                self._rename_structs(parameters)
            cursor.execute(
                f"INSERT INTO ragstore.{table} ({_listed(taken)}, collection_id) OVERRIDING SYSTEM VALUE "
                f"SELECT {_listed(taken)}, %(collection_id)s FROM loading_{table}",
                parameters,
            )
            self._raise_numbers(table, [each for each in taken if known[each]])
        cursor.execute(f"DROP TABLE loading_{table}")

    def _rename_structs(self, parameters: Mapping[str, Any]) -> None:
        """An id is one index's alone: what stands beside its original gets another."""
        taken = set(fetch_ids(self._cursor, _STRUCT_IDS))
        for index_id, kind, body in fetch(self._cursor, _TAKEN_STRUCTS):
            name = str(parameters["name"])
            new = name if kind == VECTOR_STORE and name not in taken else f"{index_id}-{name}"
            taken.add(new)
            payload = json.loads(body)
            if "index_id" in payload:
                payload["index_id"] = new
            self._cursor.execute(_RENAME_STRUCT, {"old": index_id, "new": new, "body": json.dumps(payload)})
            self.notes.append(f"index {index_id} renamed to {new}, because its id is in use")

    def _raise_numbers(self, table: str, identities: Sequence[str]) -> None:
        for column in identities:
            sequence = f"pg_get_serial_sequence('ragstore.{table}', '{column}')::regclass"
            self._cursor.execute(
                f"SELECT setval({sequence}, greatest(nextval({sequence}), (SELECT coalesce(max({column}), 1) "
                f"FROM loading_{table})))"
            )


@contextmanager
def switching(pool: PostgresPool, *, worker: str, before_commit: Callable[[], None]) -> Iterator[Switch]:
    """The transaction that makes restored collections live, committed at the end of the block."""
    with pool.transaction() as cursor:
        cursor.execute(f"{_UNLIMITED}; {_LOCK_TIMEOUT}; SET LOCAL DateStyle = 'ISO, YMD'")
        yield Switch(cursor, worker=worker)
        before_commit()


def restored_from(pool: PostgresPool, name: str) -> dict[str, Any]:
    """What the last restore of the collection with this name noted; empty if there was none."""
    rows = fetch(pool, _WHICH_RESTORED, name=name)
    return dict(rows[0][0]) if rows else {}


def require_free(pool: PostgresPool, names: Iterable[str]) -> None:
    """Refuse names that collections have.

    Raises:
        RefusedError
    """
    taken = [name for name in names if find_collection(pool, name) is not None]
    if taken:
        raise RefusedError(
            f"there is a collection {taken[0]!r} already",
            hint="--as restores under another name; --replace gives up what is there, once the other is complete",
            in_python="renamed= restores under another name; replace=True gives up what is there",
            taken=taken,
        )


def live_nodes(pool: PostgresPool, collection: Collection) -> Iterator[list[LiveNode]]:
    """All live nodes in pages, those with a vector first, as MongoDB is to have them."""
    with pool.transaction() as cursor:
        execute(cursor, BEGIN_SNAPSHOT)
        execute(cursor, f"DECLARE live NO SCROLL CURSOR FOR {_LIVE}", collection)
        for rows in cursor_pages(cursor, "live", limit=_PAGE):
            yield [
                LiveNode(i, stamp, TYPE_KEYS.get(name, "1"), content_with_text(name, orjson.loads(content), text))
                for i, stamp, name, content, text in rows
            ]
        execute(cursor, f"DECLARE bodies NO SCROLL CURSOR FOR {_LIVE_BODIES}", collection)
        for rows in cursor_pages(cursor, "bodies", limit=_PAGE):
            yield [LiveNode(*row) for row in rows]


def sample_nodes(pool: PostgresPool, collection: Collection, n: int) -> list[tuple[str, list[float]]]:
    """Id and vector of at most ``n`` nodes, evenly by their row ids."""
    rows = fetch(pool, _SAMPLE, collection, n=n)
    return [(node_id, decoded_vector(sent).tolist()) for node_id, sent in rows]


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f'"{each}"' for each in columns)


class _Pieces(io.RawIOBase):
    """A file for psycopg2 of pieces that come one after the other."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n
