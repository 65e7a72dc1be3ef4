"""What an ingest refuses before it changes anything: the wrong model, schema, deployment or an emptied store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import EmbeddingSpaceError, EmptyStoreError, SchemaVersionError, StoreSetupError, UsageError
from ragstore.settings import Settings
from tests.support.corpus import a_text, write_documents
from tests.support.oracle import Oracle
from tests.support.parts import execute, postgres_url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    return tmp_path / "docs"


def changed(settings: Settings, **options: Any) -> Settings:
    return Settings(
        **{
            "postgres_url": settings.postgres_url,
            "mongo_url": settings.mongo_url,
            "mongo_database": settings.mongo_database,
            "grace_s": 0,
            **options,
        }
    )


def test_another_model_is_refused_and_both_are_named(settings: Settings, store: Ragstore, folder: Path) -> None:
    store.ingest(folder, collection="docs")
    with ragstore.open(changed(settings, model="openai:text-embedding-3-small")) as rs:
        with pytest.raises(EmbeddingSpaceError) as raised:
            rs.ingest(folder, collection="docs")
        assert "wordllama" in raised.value.message
        assert "openai:text-embedding-3-small" in raised.value.message
        with pytest.raises(EmbeddingSpaceError):
            rs.create_collection("docs", model="openai:text-embedding-3-small")


def test_a_collection_of_other_dimensions_is_refused(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=8)
    assert store.create_collection("docs").space.dim == 8
    with pytest.raises(EmbeddingSpaceError) as raised:
        store.create_collection("docs", model="external", dim=9)
    assert "8 dimensions" in raised.value.message
    assert "9 dimensions" in raised.value.message


@pytest.mark.parametrize(("version", "hint"), [("0000", "ragstore migrate apply"), ("9999", "install the ragstore")])
def test_another_schema_version_of_postgresql_is_refused(
    version: str, hint: str, settings: Settings, folder: Path
) -> None:
    execute(settings, "UPDATE ragstore.schema_version SET version_num = %s", [version])
    with pytest.raises(SchemaVersionError) as raised:
        ragstore.open(settings)
    assert version in raised.value.message
    assert hint in raised.value.hint


def test_a_postgresql_without_schema_is_refused(settings: Settings) -> None:
    execute(settings, "DROP SCHEMA ragstore CASCADE")
    with pytest.raises(SchemaVersionError) as raised:
        ragstore.open(settings)
    assert "ragstore migrate apply" in raised.value.hint


def test_another_schema_version_of_mongodb_is_refused(
    store: Ragstore, mongo_database: Database[dict[str, Any]], folder: Path
) -> None:
    mongo_database["ragstore/registry"].insert_one({"kind": "step", "name": "9999_post_later", "checksum": "x"})
    with pytest.raises(SchemaVersionError) as raised:
        store.ingest(folder, collection="docs")
    assert "9999" in raised.value.message


def test_the_mongodb_of_another_deployment_is_refused(
    settings: Settings, store: Ragstore, mongo_database: Database[dict[str, Any]], folder: Path
) -> None:
    mongo_database["ragstore/registry"].update_one({"_id": "deployment"}, {"$set": {"deployment_id": "another"}})
    with pytest.raises(EmptyStoreError):
        store.ingest(folder, collection="docs")
    assert execute(settings, "SELECT count(*) FROM ragstore.run") == [(0,)]


def test_an_emptied_mongodb_is_refused_and_not_filled_again(
    settings: Settings, store: Ragstore, mongo_database: Database[dict[str, Any]], folder: Path
) -> None:
    store.ingest(folder, collection="docs")
    mongo_database.client.drop_database(mongo_database.name)
    write_documents(folder, {"b.txt": a_text("b")})
    with ragstore.open(settings) as rs, pytest.raises(EmptyStoreError) as raised:
        rs.ingest(folder, collection="docs")
    assert "1 documents" in raised.value.message
    assert not mongo_database.list_collection_names()


def test_a_mongodb_that_stands_alone_is_refused(settings: Settings, folder: Path) -> None:
    assert settings.mongo_url is not None
    wrong_set = settings.mongo_url.get_secret_value().replace("replicaSet=rs0", "replicaSet=other")
    with ragstore.open(changed(settings, mongo_url=wrong_set, connect_timeout_s=1)) as rs:
        with pytest.raises(StoreSetupError):
            rs.ingest(folder, collection="docs")


def test_a_path_that_does_not_exist_is_refused_before_a_collection_is_made(store: Ragstore, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        store.ingest(tmp_path / "absent", collection="docs")
    assert store.collections() == []


def test_one_connection_is_enough(settings: Settings, mongo_database: Database[dict[str, Any]], folder: Path) -> None:
    state = write_documents(folder, {f"{i}.txt": a_text(i) for i in range(6)}) | {str(folder / "a.txt"): a_text("a")}
    with ragstore.open(changed(settings, pool_size=1, index_min_nodes=10, batch_chunks=10)) as rs:
        rs.create_collection("docs", chunk_size=40, chunk_overlap=0)
        assert rs.ingest(folder, collection="docs").added == 7
        assert [c.indexed for c in rs.collections()] == [c.nodes for c in rs.collections()]
    Oracle(postgres_url(settings), mongo_database).assert_settled(state)
