"""An application under a PostgreSQL role that owns nothing: it can do all of its work, and no more than that."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg2
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.graph_stores.types import Relation
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import StoreSetupError, UsageError
from ragstore.model.filters import Condition
from ragstore.settings import Settings
from tests.support import servers
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.oracle import Oracle
from tests.support.parts import execute
from tests.support.roles import Roles, a_database_with_roles
from tests.support.segments import OTHERS, SEGMENTS
from tests.support.servers import Servers

ROOT = Path(__file__).parents[2]
COLLECTION = "docs"

FORBIDDEN = (
    "CREATE TABLE ragstore.mine (x int)",
    "CREATE TABLE public.mine (x int)",
    "CREATE SCHEMA mine",
    "DROP TABLE ragstore.data_docs",
    "DROP TABLE ragstore.event",
    "TRUNCATE ragstore.document",
    "ALTER TABLE ragstore.document ADD COLUMN mine int",
    "CREATE INDEX mine ON ragstore.data_docs (ordinal)",
    "DROP INDEX ragstore.data_docs_text_idx",
    "DROP SCHEMA ragstore CASCADE",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY ragstore.deployment TO PROGRAM 'cat'",
    "CREATE ROLE mine SUPERUSER",
    "ALTER FUNCTION ragstore.ensure_collection_table(text) OWNER TO CURRENT_USER",
    "DELETE FROM ragstore.event",
    "UPDATE ragstore.event SET worker = 'somebody else'",
    "LOCK TABLE ragstore.event IN ACCESS EXCLUSIVE MODE",
    "DELETE FROM ragstore.migration",
    "INSERT INTO ragstore.migration (name, checksum) VALUES ('x', 'x')",
    "UPDATE ragstore.schema_version SET version_num = '0000'",
    "UPDATE ragstore.deployment SET deployment_id = gen_random_uuid()",
    "INSERT INTO ragstore.deployment DEFAULT VALUES",
    "LOCK TABLE ragstore.deployment IN SHARE MODE",
)

SQL = "1 OR current_user = (SELECT 1/0)::text"
HOSTILE: tuple[tuple[str, Any], ...] = (
    ("segments", f'[[0, "{SQL}", 5]]'),
    ("segments", f'[["{SQL}", 7, 5]]'),
    ("segments", f'[[0, ["{SQL}"], 5]]'),
    ("segments", f'[[0, {{"a": "{SQL}"}}, 5]]'),
    ("segments", f'["{SQL}"]'),
    ("segments", "[[0]]"),
    ("segments", "[[0, null, 5]]"),
    ("segments", "{}"),
    ("segments", f'"{SQL}"'),
    ("name", 'docs" WHERE (SELECT 1/0) = 1 --'),
    ("name", "docs\n"),
    ("name", "{table}"),
    ("vector_type", "vector(3)"),
    ("vector_type", f"halfvec, {SQL}"),
    ("text_search_config", "english' || (SELECT 1/0)::text || '"),
    ("text_search_config", "english\\"),
    ("text_search_config", "a.b.c"),
    ("filter_keys", [None]),
    ("filter_keys", ["x" * 4000]),
    ("filter_keys", [["a"], ["b"]]),
    ("filter_keys", [str(n) for n in range(17)]),
    ("dim", 0),
    ("metric", "cosine; SELECT 1/0"),
)
KEYS = ["o'key", "', (SELECT 1/0)) --", '"); SELECT 1/0; --', "%s", "{table}", "$$", "\\', (1/0)", "a;b"]
"""Allowed, and quoted where they become a part of an index."""


@pytest.fixture(params=[True, False], ids=["with MAINTAIN", "without MAINTAIN"])
def roles(test_servers: Servers, request: pytest.FixtureRequest) -> Iterator[Roles]:
    with a_database_with_roles(test_servers, may_maintain=request.param) as roles:
        yield roles


@pytest.fixture
def own_settings(test_servers: Servers, roles: Roles, mongo_database: Database[dict[str, Any]]) -> Settings:
    """Of the owner."""
    servers.migrate_mongo(roles.owner_url, mongo_database)
    return Settings(
        postgres_url=roles.owner_url,
        mongo_url=test_servers.mongo_url,
        mongo_database=mongo_database.name,
        index_min_nodes=5,
        grace_s=0,
        lease_ttl_s=5,
        env="test",
    )


@pytest.fixture
def settings(own_settings: Settings, roles: Roles) -> Settings:
    """Of the application."""
    values = own_settings.model_dump(exclude_unset=True)
    return Settings(**{**values, "postgres_url": roles.app_url})


@pytest.fixture
def rs(settings: Settings) -> Iterator[Ragstore]:
    with ragstore.open(settings) as store:
        store.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
        yield store


@pytest.fixture
def oracle(roles: Roles, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(roles.owner_url, mongo_database)


def test_the_whole_life_of_files_works(rs: Ragstore, oracle: Oracle, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    texts = {f"{i}.txt": a_text(i) for i in range(6)}
    state = write_documents(folder, texts)
    assert rs.ingest(folder, collection=COLLECTION).added == 6
    oracle.assert_settled(state)

    state |= write_documents(folder, {"0.txt": an_edited(texts["0.txt"], "x")})
    (folder / "1.txt").rename(folder / "moved.txt")
    state[str(folder / "moved.txt")] = state.pop(str(folder / "1.txt"))
    (folder / "2.txt").unlink()
    del state[str(folder / "2.txt")]
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    report = rs.sync(folder, collection=COLLECTION)
    assert (report.updated, report.renamed, report.deleted, report.failed) == (1, 1, 1, 1)
    assert rs.retry_quarantine(collection=COLLECTION) == 1
    (folder / "broken.pdf").unlink()
    assert rs.sync(folder, collection=COLLECTION).unchanged == 5

    assert rs.delete(str(folder / "3.txt"), collection=COLLECTION) == 1
    del state[str(folder / "3.txt")]
    oracle.assert_settled(state)
    hit = rs.query(a_text(4)[:100], collection=COLLECTION, top_k=1)[0]
    assert hit.document_id == str(folder / "4.txt")
    assert rs.verify(deep=True).ok


def test_an_emptied_mongo_and_a_lost_table_are_repaired(
    rs: Ragstore, roles: Roles, oracle: Oracle, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    state = write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i) for i in range(3)})
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    mongo_database.client.drop_database(mongo_database.name)
    assert rs.repair().ok
    oracle.assert_settled(state)
    _execute(roles.owner_url, "DROP TABLE ragstore.data_docs")
    assert rs.repair().ok
    oracle.assert_settled(state)


def test_llamaindex_code_inserts_refreshes_and_deletes(rs: Ragstore) -> None:
    rs.create_collection("notes", model="wordllama")
    index = VectorStoreIndex.from_documents(
        [Document(id_="a", text="The pump needs oil."), Document(id_="b", text="The valve opens at nine bar.")],
        storage_context=rs.storage_context("notes"),
        embed_model=rs.embed_model("notes"),
    )
    changed = [Document(id_="a", text="The pump needs grease."), Document(id_="c", text="The boiler is hot.")]
    assert index.refresh_ref_docs(changed) == [True, True]
    index.delete_ref_doc("b", delete_from_docstore=True)
    found = {node.text for node in index.as_retriever(similarity_top_k=5).retrieve("pump")}
    assert found == {"The pump needs grease.", "The boiler is hot."}
    assert rs.verify("notes", deep=True).ok


def test_graphs_are_written_and_deleted(rs: Ragstore) -> None:
    rs.create_collection("notes", model="external", dim=4)
    context = rs.storage_context("notes")
    graph = context.property_graph_store
    assert graph is not None
    context.graph_store.upsert_triplet("a", "knows", "b")
    graph.upsert_relations([Relation(label="knows", source_id="a", target_id="b")])
    assert context.graph_store.get("a") == [["knows", "b"]] and len(graph.get()) == 2
    context.graph_store.delete("a", "knows", "b")
    graph.delete(ids=["a", "b"])
    assert context.graph_store.get("a") == [] and graph.get() == []


def test_the_index_is_left_to_the_owner_without_a_word(
    rs: Ragstore, own_settings: Settings, roles: Roles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    with caplog.at_level(logging.DEBUG, logger="ragstore"):
        rs.ingest(tmp_path / "docs", collection=COLLECTION)
        rs.ingest(tmp_path / "docs", collection=COLLECTION)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert _execute(roles.owner_url, SEGMENTS) == _execute(roles.owner_url, OTHERS) == []
    assert [c.indexed for c in rs.collections()] == [0]

    with ragstore.open(own_settings) as owner:
        assert owner.upkeep().go_round()
        assert [is_there for _, is_there in _execute(roles.owner_url, SEGMENTS)] == [True]
        assert not owner.upkeep().go_round()
    assert [c.indexed for c in rs.collections()] == [c.nodes for c in rs.collections()]
    assert rs.query(a_text("a")[:80], collection=COLLECTION)


@pytest.mark.parametrize("index", ["of the segment", "data_docs_text_idx"])
def test_the_repair_of_an_index_says_who_must_do_it(
    index: str, rs: Ragstore, own_settings: Settings, roles: Roles, tmp_path: Path, test_servers: Servers
) -> None:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    with ragstore.open(own_settings) as owner:
        owner.upkeep().go_round()
        ((of_segment, _),) = _execute(roles.owner_url, SEGMENTS)
        if index == "of the segment":
            _execute(roles.owner_url, f"DROP TABLE ragstore.{of_segment}")
        else:
            _invalidate(test_servers, roles, index)
        with pytest.raises(StoreSetupError) as raised:
            rs.repair()
        assert roles.owner in raised.value.message
        assert "RAGSTORE_POSTGRES_URL" in raised.value.hint and roles.owner in raised.value.hint
        assert owner.repair().ok
        assert [is_there for _, is_there in _execute(roles.owner_url, SEGMENTS)] == [True]
    assert rs.repair().ok


def test_the_application_can_neither_make_nor_drop_nor_look_elsewhere(rs: Ragstore, roles: Roles) -> None:
    for statement in FORBIDDEN:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            _execute(roles.app_url, statement)


@pytest.mark.parametrize("name", ["0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "7"])
def test_a_collection_may_have_a_tenants_uuid_as_its_name(
    rs: Ragstore, roles: Roles, own_settings: Settings, tmp_path: Path, name: str
) -> None:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    rs.create_collection(name, filter_keys=["year"])
    assert rs.ingest(tmp_path / "docs", collection=name).added == 1
    assert rs.query("a", collection=name)
    as_owner = Settings(**{**own_settings.model_dump(exclude_unset=True), "postgres_url": roles.owner_url})
    with ragstore.open(as_owner) as owner:
        owner.upkeep().go_round()
        assert owner.verify(deep=True).ok
        assert owner.drop_collection(name) == 1
    with pytest.raises(UsageError, match="'Tenant'") as refused:
        rs.create_collection("Tenant")
    assert "UUID" in refused.value.hint


@pytest.mark.parametrize(("column", "value"), HOSTILE, ids=lambda value: str(value)[:30])
def test_what_would_become_sql_of_the_owner_is_refused(rs: Ragstore, roles: Roles, column: str, value: Any) -> None:
    kind = "::jsonb" if column == "segments" else ""
    with pytest.raises(psycopg2.errors.CheckViolation):
        _execute(roles.app_url, f"UPDATE ragstore.collection SET {column} = %s{kind} WHERE name = 'docs'", value)


def test_filter_keys_that_look_like_sql_are_keys(
    rs: Ragstore, own_settings: Settings, roles: Roles, tmp_path: Path
) -> None:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    _execute(roles.app_url, "UPDATE ragstore.collection SET filter_keys = %s WHERE name = 'docs'", KEYS)
    as_owner = Settings(**{**own_settings.model_dump(exclude_unset=True), "postgres_url": roles.owner_url})
    with ragstore.open(as_owner) as owner:
        owner.upkeep().go_round()
        assert owner.verify(deep=True).ok
        for key in KEYS:
            assert owner.query("a", collection=COLLECTION, filters=Condition(key, "==", "x")) == []
    ((n_indexes,),) = _execute(roles.owner_url, "SELECT count(*) FROM pg_indexes WHERE indexname ~ '^filter_'")
    assert n_indexes == 2 * len(KEYS)


def test_the_roles_of_the_stack_close_every_database(test_servers: Servers) -> None:
    text = (ROOT / "stack/postgres/roles.sql").read_text(encoding="utf-8")
    (closing,) = re.findall(r"^(SELECT format\('REVOKE ALL ON DATABASE .*)$", text, re.MULTILINE)
    connection = psycopg2.connect(test_servers.postgres_url)
    try:
        with connection.cursor() as cursor:
            role = f"nobody_{uuid4().hex[:8]}"
            cursor.execute(f"CREATE ROLE {role}")
            cursor.execute(closing.replace("datallowconn", "datname IN ('postgres', 'template1')"))
            for (statement,) in cursor.fetchall():
                cursor.execute(statement)
            cursor.execute(
                "SELECT datname, has_database_privilege(%s, oid, 'CONNECT') FROM pg_database "
                "WHERE datname IN ('postgres', 'template1') ORDER BY 1",
                [role],
            )
            assert cursor.fetchall() == [("postgres", False), ("template1", False)]
    finally:
        connection.rollback()
        connection.close()


def test_the_application_cannot_enter_the_database_of_another(roles: Roles, test_servers: Servers) -> None:
    with a_database_with_roles(test_servers) as other:
        elsewhere = urlsplit(roles.app_url)._replace(path=urlsplit(other.app_url).path)
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            _execute(urlunsplit(elsewhere), "SELECT 1")


def test_a_maintain_of_the_application_says_once_who_must_build(
    rs: Ragstore, roles: Roles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    upkeep = rs.upkeep()
    upkeep.go_round()
    upkeep.go_round()
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.fields["owner"] == roles.owner  # type: ignore[attr-defined]


def _invalidate(servers: Servers, roles: Roles, index: str) -> None:
    """As a build that was killed leaves it; only a superuser can do that by hand."""
    database = urlsplit(roles.owner_url).path
    url = urlunsplit(urlsplit(servers.postgres_url)._replace(path=database))
    _execute(url, f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ragstore.{index}'::regclass")


def _execute(url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return execute(Settings(postgres_url=url, mongo_url="mongodb://unused"), statement, parameters)
