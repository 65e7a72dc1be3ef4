"""The schema under another name: two deployments in one database, neither of which sees or touches the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from psycopg2 import sql
from pymongo.database import Database
from sqlalchemy import text

import ragstore
from ragstore.app import Ragstore, migrations, servers
from ragstore.errors import EmptyStoreError
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.session import in_schema
from ragstore.postgres.turn import Turn
from ragstore.settings import Settings
from tests.support.parts import execute, postgres_url

OTHER = "order"  # a word of SQL, which has to be quoted
MARK = "the schema ragstore.document and 'ragstore' stay as they are in a text"


@pytest.fixture
def other(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Iterator[Settings]:
    """The second deployment in the database of ``settings``, with a MongoDB database of its own."""
    second = settings.model_copy(
        update={"postgres_schema": OTHER, "mongo_database": f"{settings.mongo_database}_2", "index_min_nodes": 50}
    )
    assert migrations.apply(second)
    yield second
    mongo_database.client.drop_database(second.mongo_database)


def rows(settings: Settings, schema: str) -> dict[str, int]:
    """How many rows each table of a schema has."""
    names = execute(settings, "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", [schema])
    return {name: execute(settings, f'SELECT count(*) FROM "{schema}"."{name}"')[0][0] for (name,) in names}


def work(rs: Ragstore, folder: Path) -> None:
    """Everything once."""
    folder.mkdir(exist_ok=True)
    for i in range(6):
        (folder / f"{i}.txt").write_text(f"Number {i}: {MARK}.")
    rs.create_collection("docs", filter_keys=["year"])
    assert rs.ingest(str(folder), collection="docs").added == 6
    for mode in ("vector", "keyword", "hybrid"):
        for _ in range(3):
            assert MARK in rs.query("schema stay text", collection="docs", mode=mode)[0].text
    (folder / "1.txt").unlink()
    assert rs.sync(str(folder), collection="docs", allow_mass_delete=True).deleted == 1
    rs.create_collection("vectors", model="external", dim=8)
    chance = np.random.default_rng(1)
    nodes = [
        TextNode(text=f"node {i} {MARK}", embedding=chance.normal(size=8).tolist(), metadata={"year": i})
        for i in range(200)
    ]
    store = rs.storage_context("vectors").vector_store
    store.add(nodes)
    found = store.query(VectorStoreQuery(query_embedding=nodes[7].embedding, similarity_top_k=1))
    assert found.nodes and found.nodes[0].get_content() == f"node 7 {MARK}"
    with store.client.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ragstore.data_vectors")).scalar() == 200
    rs.upkeep().go_round()
    assert rs.query("", collection="vectors", embedding=nodes[9].embedding, mode="vector")[0].text == f"node 9 {MARK}"
    assert rs.verify(deep=True).ok
    assert rs.repair().ok


def test_two_deployments_in_one_database_do_the_same_work_apart(
    settings: Settings, other: Settings, tmp_path: Path
) -> None:
    assert migrations.apply(other) == []
    untouched = rows(settings, "ragstore")
    with ragstore.open(other) as rs:
        work(rs, tmp_path / "second")
    assert rows(settings, "ragstore") == untouched
    second = rows(settings, OTHER)
    assert second["document"] == 6 and second["data_vectors"] == 200
    segments = "SELECT count(*) > 0 FROM pg_tables WHERE schemaname = %s AND tablename ^@ 'seg_'"
    assert execute(settings, segments, [OTHER]) == [(True,)]
    assert execute(settings, segments, ["ragstore"]) == [(False,)]
    with ragstore.open(settings.model_copy(update={"index_min_nodes": 50})) as rs:
        work(rs, tmp_path / "first")
        rs.drop_collection("docs")
    assert rows(settings, OTHER) == second
    status = servers.status(other)
    assert status.schema["ok"] and [each.name for each in status.collections] == ["docs", "vectors"]


def test_a_mongo_database_of_the_other_deployment_is_refused(settings: Settings, other: Settings) -> None:
    wrong = other.model_copy(update={"mongo_database": settings.mongo_database})
    with ragstore.open(wrong) as rs, pytest.raises(EmptyStoreError, match="another PostgreSQL"):
        rs.ingest(".")


def test_workers_of_two_deployments_have_a_turn_each(settings: Settings) -> None:
    pools = [PostgresPool(postgres_url(settings), schema=schema) for schema in ("ragstore", OTHER)]
    turns = [Turn(pool, collection="docs", paths=["/a"]) for pool in pools]
    try:
        assert [turn.mine() for turn in turns] == [True, True]
    finally:
        for turn in turns:
            turn.close()


def test_a_table_of_another_program_keeps_its_schema(settings: Settings) -> None:
    pool = PostgresPool(postgres_url(settings), schema=OTHER)
    with pool.transaction() as cursor:
        cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("ragstore", "document")))
        assert cursor.fetchone() == (0,)
    pool.close()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("SELECT * FROM ragstore.document", 'SELECT * FROM "x".document'),
        ("SELECT nextval('ragstore.stamp')", "SELECT nextval('\"x\".stamp')"),
        ("WHERE nspname = 'ragstore'", "WHERE nspname = 'x'"),
        ("CREATE SCHEMA IF NOT EXISTS ragstore", 'CREATE SCHEMA IF NOT EXISTS "x"'),
        ("GRANT USAGE ON SCHEMA ragstore TO ragstore_app", 'GRANT USAGE ON SCHEMA "x" TO ragstore_app'),
        ('SELECT "ragstore".a FROM my_ragstore.b', 'SELECT "x".a FROM my_ragstore.b'),
    ],
)
def test_only_the_schema_is_named_otherwise(ours: str, theirs: str) -> None:
    assert in_schema("x", ours) == theirs
