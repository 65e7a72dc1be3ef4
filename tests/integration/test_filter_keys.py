from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import UsageError
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace, TableForm
from ragstore.model.filters import Condition, Group
from ragstore.postgres.collections import create_collection, get_collection
from ragstore.postgres.filter_keys import build_missing, declare
from ragstore.postgres.filters import to_sql
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.command import CommandLine
from tests.support.filter_oracle import matches
from tests.support.internals import pool_of
from tests.support.parts import mongo_url, postgres_url
from tests.support.roles import a_database_with_roles
from tests.support.servers import Servers

pytestmark = pytest.mark.on_both

KEYS = ("tenant", "year", "o'key", "%s", "back\\slash", "{x}", "")


@pytest.fixture
def pool(postgres_database: str) -> Iterator[PostgresPool]:
    pool = PostgresPool(postgres_database)
    yield pool
    pool.close()


def a_collection(pool: PostgresPool, *keys: str) -> Collection:
    return create_collection(
        pool,
        "docs",
        space=EmbeddingSpace("external", 2),
        chunking=Chunking(256, 32),
        text_search_config="english",
        form=TableForm(filter_keys=keys),
    )


def add_nodes(pool: PostgresPool, rows: list[dict[str, Any]]) -> None:
    with pool.transaction() as cursor:
        cursor.execute(
            "INSERT INTO ragstore.data_docs (text, metadata_, node_id, embedding, ordinal, user_metadata)"
            " SELECT '', '{}', 'n' || n, '[1,0]', n, m FROM unnest(%s::jsonb[]) WITH ORDINALITY AS r (m, n)",
            ([json.dumps(row, ensure_ascii=False) for row in rows],),
        )


def run(pool: PostgresPool, statement: str, params: Any = None) -> list[Any]:
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statement, params)
        return cursor.fetchall() if cursor.description else []


A_REPORT = """
SELECT 1 FROM pg_stat_activity
WHERE application_name = 'a report' AND clock_timestamp() - xact_start > make_interval(secs => %s)
"""
INDEXES = """
SELECT c.relname::text, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = 'ragstore.data_docs'::regclass AND c.relname ^@ 'filter_' ORDER BY 1
"""


def test_a_new_collection_has_the_indexes_of_its_keys(pool: PostgresPool) -> None:
    collection = a_collection(pool, *KEYS)
    assert collection.filter_keys == KEYS == get_collection(pool, "docs").filter_keys
    assert [valid for _, valid in run(pool, INDEXES)] == [True] * 2 * len(KEYS)
    assert not build_missing(pool, collection)


def test_keys_that_are_declared_later_are_indexed_beside_the_nodes(pool: PostgresPool) -> None:
    collection = a_collection(pool, "tenant")
    add_nodes(pool, [{"tenant": "a", "year": n} for n in range(50)])
    collection = declare(pool, collection, ["year", "tenant"])
    assert collection.filter_keys == ("tenant", "year")
    assert len(run(pool, INDEXES)) == 2
    assert build_missing(pool, collection)
    assert [valid for _, valid in run(pool, INDEXES)] == [True] * 4
    assert not build_missing(pool, collection)


def test_an_index_that_a_killed_build_left_behind_is_built_anew(pool: PostgresPool) -> None:
    collection = a_collection(pool, "year")
    [(name, _), _] = run(pool, INDEXES)
    run(pool, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [f"ragstore.{name}"])
    assert build_missing(pool, collection)
    assert [valid for _, valid in run(pool, INDEXES)] == [True, True]


@pytest.mark.parametrize("lasts_longer", [True, False])
def test_a_build_waits_for_nobodys_transaction_for_long(
    pool: PostgresPool, settings: Settings, lasts_longer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    collection = declare(pool, a_collection(pool), ["year"])
    logging.getLogger("ragstore").propagate = True
    with psycopg2.connect(postgres_url(settings), application_name="a report") as other, other.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ragstore.document")
        if lasts_longer:
            until(lambda: run(pool, A_REPORT, [0.3]), what="the transaction has lasted for a while")
        with caplog.at_level(logging.WARNING):
            # Before it builds, or, while that one is young, after it has waited.
            assert not build_missing(pool, collection, wait_s=0.2 if lasts_longer else 2.0)
        assert "a report" in caplog.text
        assert (run(pool, INDEXES) == []) is lasts_longer
    assert build_missing(pool, collection)
    assert [valid for _, valid in run(pool, INDEXES)] == [True, True]


def plan_of(pool: PostgresPool, collection: Collection, tree: Condition | Group) -> str:
    condition, params = to_sql(tree, declared=collection.filter_keys)
    explain = f"SET LOCAL enable_seqscan = off; EXPLAIN SELECT node_id FROM ragstore.data_docs WHERE {condition}"
    return "\n".join(line for (line,) in run(pool, explain, params))


@pytest.mark.parametrize(
    ("operator", "value", "kind"),
    [
        (">", 1995, "number"),
        (">=", 1995.5, "number"),
        ("<", -3, "number"),
        ("<=", 0, "number"),
        (">", "m", "string"),
        ("<=", "b\0", "string"),
        (">=", "x" * 300, "string"),
    ],
)
@pytest.mark.parametrize("key", KEYS)
def test_an_ordering_on_a_declared_key_is_answered_by_its_index(
    pool: PostgresPool, key: str, operator: Any, value: Any, kind: str
) -> None:
    collection = a_collection(pool, key)
    add_nodes(pool, [{key: n if n % 2 else str(n)} for n in range(2000)])
    run(pool, "ANALYZE ragstore.data_docs")
    plan = plan_of(pool, collection, Condition(key, operator, value))
    assert f"_{kind}" in plan
    assert "Seq Scan" not in plan
    assert "metadata_idx" not in plan


@pytest.mark.parametrize(("operator", "value"), [("==", "7"), ("==", 7), ("in", ["7", "8"]), ("in", [7, "8"])])
def test_equality_on_a_declared_key_can_do_without_the_index_on_all_metadata(
    pool: PostgresPool, operator: Any, value: Any
) -> None:
    collection = a_collection(pool, "tenant")
    add_nodes(pool, [{"tenant": n if n % 2 else str(n)} for n in range(2000)])
    run(pool, "DROP INDEX ragstore.data_docs_metadata_idx")
    run(pool, "ANALYZE ragstore.data_docs")
    plan = plan_of(pool, collection, Condition("tenant", operator, value))
    assert "filter_" in plan
    assert "Seq Scan" not in plan


LONG = "x" * 199
VALUES = [
    0, 1, 1.0, -0.0, 7001, "7001", "", "a", "A", "ä", "\uffff", "\U0001f600", LONG, LONG + "y", LONG + "ya", LONG + "yb",
    LONG + "z", LONG + "\U0001f600", "x" * 9000, 10**4000, 2**64, 1e308, 5e-324, True, False, None, [1], ["a"], {},
]  # fmt: skip
WANTED = [*VALUES[:-3], "\0", "a\0", "\ud800", LONG + "y\0", float("inf"), float("-inf"), float("nan"), 10**5000]


@pytest.mark.parametrize("operator", ["==", "!=", ">", ">=", "<", "<=", "in", "nin"])
def test_a_declared_key_changes_no_answer(pool: PostgresPool, operator: Any) -> None:
    collection = a_collection(pool, "k")
    rows: list[dict[str, Any]] = [*({"k": value} for value in VALUES), {}]
    add_nodes(pool, rows)
    wanted: list[Any] = [
        value
        for value in WANTED
        if operator in ("==", "!=", "in", "nin") or (value is not None and not isinstance(value, bool))
    ]
    if operator in ("in", "nin"):
        wanted = [*([value, "absent"] for value in wanted), [], ["a", 1], ["a", True], [f"n{n}" for n in range(1500)]]
    for value in wanted:
        for tree in (Condition("k", operator, value), Group("not", [Condition("k", operator, value)])):
            condition, params = to_sql(tree, declared=collection.filter_keys)
            found = run(
                pool,
                f"SET LOCAL enable_seqscan = off; SELECT ordinal - 1, ({condition}) IS NULL FROM ragstore.data_docs"
                f" WHERE {condition} ORDER BY 1",
                [*params, *params],
            )
            assert found == [(n, False) for n, row in enumerate(rows) if matches(tree, row)], tree


def test_a_string_too_long_for_an_index_is_stored(pool: PostgresPool) -> None:
    a_collection(pool, "k")
    text = "".join(chr(0x10000 + n) for n in range(20_000))
    add_nodes(pool, [{"k": text}, {"k": int("123456789" * 400)}])
    assert run(pool, "SELECT count(*) FROM ragstore.data_docs") == [(2,)]


@pytest.mark.parametrize(
    "keys", [["k" * 201], ["a\0"], ["\ud800"], [1], "tenant", [f"k{n}" for n in range(17)]], ids=str
)
def test_keys_that_can_have_no_index_are_refused(store: Ragstore, keys: Any) -> None:
    with pytest.raises(UsageError):
        store.create_collection("docs", model="external", dim=2, filter_keys=keys)
    assert store.collections() == []


def test_no_more_keys_are_added_than_can_be_declared(store: Ragstore) -> None:
    first = [f"k{n}" for n in range(10)]
    store.create_collection("docs", model="external", dim=2, filter_keys=first)
    with pytest.raises(UsageError, match="17 filter keys are too many"):
        store.create_collection("docs", filter_keys=[f"other{n}" for n in range(7)])
    assert store.create_collection("docs").filter_keys == tuple(first)


def test_keys_are_kept_and_added_when_a_collection_is_named_again(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=2, filter_keys=["tenant"])
    assert store.create_collection("docs").filter_keys == ("tenant",)
    assert store.create_collection("docs", filter_keys=["year"]).filter_keys == ("tenant", "year")
    assert [valid for _, valid in run(pool_of(store), INDEXES)] == [True] * 4


def test_a_search_finds_the_same_with_and_without_declared_keys(store: Ragstore) -> None:
    plain = store.create_collection("plain", model="external", dim=2)
    declared = store.create_collection("declared", model="external", dim=2, filter_keys=["year", "lang"])
    for collection in (plain, declared):
        run(
            pool_of(store),
            f"INSERT INTO ragstore.{collection.table} (text, metadata_, node_id, embedding, ordinal, user_metadata)"
            " SELECT 't', '{}', 'n' || n, ARRAY[1, n::real / 100]::vector, n,"
            " jsonb_build_object('year', 1900 + n, 'lang', 'l' || n % 3) FROM generate_series(1, 200) AS n",
        )
    for tree in (
        Condition("year", ">=", 2050),
        Condition("lang", "==", "l1"),
        Group("and", [Condition("lang", "in", ["l1", "l2"]), Condition("year", "<", 1950)]),
        Group("or", [Condition("lang", ">", "l1"), Condition("year", "<", 1905)]),
        Group("not", [Condition("year", ">", 1910)]),
    ):
        answers = [
            [
                hit.node_id
                for hit in store.query("", mode="vector", embedding=[1, 0], collection=name, top_k=20, filters=tree)
            ]
            for name in ("plain", "declared")
        ]
        assert answers[0] == answers[1] != []


def test_rows_of_a_table_hold_the_vectors_that_they_are_compared_by(pool: PostgresPool) -> None:
    a_collection(pool)
    storage = "SELECT attname::text, attstorage FROM pg_attribute WHERE attrelid = 'ragstore.data_docs'::regclass"
    assert run(pool, f"{storage} AND attname IN ('embedding', 'user_metadata') ORDER BY 1") == [
        ("embedding", "p"),
        ("user_metadata", "m"),
    ]


@pytest.mark.parametrize("dim", [1, 400, 875, 1750, 1751, 2000, 4000, 16_000])
@pytest.mark.parametrize("vector_type", ["vector", "halfvec"])
def test_the_largest_row_of_every_dimension_can_be_stored(pool: PostgresPool, dim: int, vector_type: Any) -> None:
    create_collection(
        pool,
        "docs",
        space=EmbeddingSpace("external", dim),
        chunking=Chunking(256, 32),
        text_search_config="english",
        form=TableForm(vector_type=vector_type),
    )
    noise = "SELECT string_agg(md5(random()::text), '') FROM generate_series(1, %s)"
    run(
        pool,
        "INSERT INTO ragstore.data_docs (text, metadata_, node_id, document_id, embedding, ordinal, chunk_hash,"
        " user_metadata, start_char, end_char)"
        f" SELECT ({noise}), jsonb_build_object('k', ({noise})), left(({noise}), 1024), left(({noise}), 1024),"
        f" (SELECT array_agg(random())::real[] FROM generate_series(1, %s))::{vector_type}, 0, sha256('x'),"
        f" jsonb_build_object('k', ({noise})), 0, 1",
        [5_000, 5_000, 40, 40, dim, 5_000],
    )
    assert run(pool, "SELECT count(*) FROM ragstore.data_docs") == [(1,)]


def test_who_owns_no_table_declares_keys_and_the_owner_builds(test_servers: Servers) -> None:
    with a_database_with_roles(test_servers) as roles:
        owner, application = PostgresPool(roles.owner_url), PostgresPool(roles.app_url)
        collection = a_collection(application, "tenant")
        assert [valid for _, valid in run(owner, INDEXES)] == [True, True]
        collection = declare(application, collection, ["year"])
        assert not build_missing(application, collection)
        assert len(run(owner, INDEXES)) == 2
        assert build_missing(owner, collection)
        assert [valid for _, valid in run(owner, INDEXES)] == [True] * 4
        owner.close()
        application.close()


def test_filter_keys_can_be_named_on_the_command_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("The first text.")
    command = CommandLine(
        tmp_path,
        {
            "postgres_url": postgres_url(settings),
            "mongo_url": mongo_url(settings),
            "mongo_database": settings.mongo_database,
        },
    )
    command("ingest", tmp_path / "docs", "-c", "docs", "--filter-key", "year", "--filter-key", "tenant")
    command("sync", tmp_path / "docs", "-c", "docs", "--filter-key", "lang", "--dry-run")
    with ragstore.open(settings) as rs:
        assert rs.create_collection("docs").filter_keys == ("year", "tenant")
    command("sync", tmp_path / "docs", "-c", "docs", "--filter-key", "lang")
    with ragstore.open(settings) as rs:
        assert rs.create_collection("docs").filter_keys == ("year", "tenant", "lang")
