"""repair: what PostgreSQL lost, brought back from MongoDB, only the missing vectors computed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from pymongo.database import Database

from ragstore.errors import RefusedError, StoreSetupError
from ragstore.model.drift import Kind
from ragstore.settings import Settings
from tests.support.drift import COLLECTION, Scene, a_copied_row, a_scene, an_old_node_id
from tests.support.internals import collection_of, pool_of
from tests.support.parts import postgres_url
from tests.support.segments import OTHERS, SEGMENTS, SIZES, seal


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path) -> Iterator[Scene]:
    with a_scene(settings, mongo_database, tmp_path / "docs") as made:
        yield made


def rows(scene: Scene) -> list[tuple[Any, ...]]:
    """All that a row says, but its stamp; of vectors what two runs of the model agree on."""
    return scene.sql(
        "SELECT node_id, document_id, ordinal, text, metadata_, user_metadata, start_char, end_char, "
        "encode(chunk_hash, 'hex'), (SELECT array_agg(round(v::numeric, 4)) FROM unnest(embedding::real[]) v) "
        "FROM ragstore.data_docs ORDER BY document_id, ordinal"
    )


def test_deleted_rows_come_back_and_only_they_are_embedded(scene: Scene) -> None:
    before, hits = rows(scene), scene.hits()
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = ANY(%s)", scene.node_ids()[::5])
    n_lost = len(before) - len(rows(scene))
    report = scene.repair()
    assert report.ok
    assert report.embedded == report.repaired.counts[Kind.MISSING_IN_POSTGRES] == n_lost
    assert rows(scene) == before
    assert scene.hits() == hits
    scene.assert_ok()


def test_a_dropped_table_comes_back_with_the_same_hits(scene: Scene) -> None:
    before, hits = rows(scene), scene.hits()
    scene.sql("DROP TABLE ragstore.data_docs")
    report = scene.repair()
    assert report.ok
    assert report.embedded == len(before)
    assert rows(scene) == before
    assert scene.hits() == hits
    scene.assert_ok()


def test_a_query_on_a_dropped_table_tells_of_repair(scene: Scene) -> None:
    scene.sql("DROP TABLE ragstore.data_docs")
    with pytest.raises(StoreSetupError) as error:
        scene.rs.query("anything", collection=COLLECTION)
    assert "ragstore repair" in error.value.hint


def test_a_vector_is_not_computed_where_a_live_row_has_the_same_text(scene: Scene) -> None:
    (scene.folder / "copy.txt").write_bytes((scene.folder / "0.txt").read_bytes())
    scene.state[scene.id_of("copy.txt")] = scene.state[scene.id_of("0.txt")]
    scene.rs.ingest(scene.folder, collection=COLLECTION)
    scene.sql("DELETE FROM ragstore.data_docs WHERE document_id = %s", scene.id_of("copy.txt"))
    report = scene.repair()
    assert report.ok
    assert report.embedded == 0
    scene.assert_ok()


def test_rows_lost_together_with_their_entries_come_back(scene: Scene) -> None:
    scene.sql("DELETE FROM ragstore.data_docs WHERE document_id = %s", scene.id_of("0.txt"))
    for kind in ("ref_doc_info", "metadata"):
        scene.entries(kind).delete_one({"_id": scene.id_of("0.txt")})
    assert scene.repair().repaired.counts[Kind.MISSING_IN_POSTGRES] > 0
    texts = [row[3] for row in rows(scene) if row[1] == scene.id_of("0.txt")]
    assert all(text in scene.state[scene.id_of("0.txt")] for text in texts)
    assert scene.verify().ok


def test_a_dead_runs_rest_does_not_come_back_with_the_lost_rows(scene: Scene) -> None:
    body = scene.data().find_one({"__data__.relationships.1.node_id": scene.id_of("0.txt")})
    stray = an_old_node_id(time.time() - 3600)
    scene.data().insert_one(body | {"_id": stray, "__data__": body["__data__"] | {"id_": stray}})
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = %s", scene.node_ids("0.txt")[1])
    report = scene.rs.repair()
    assert report.repaired.counts == {Kind.MISSING_IN_POSTGRES: 1, Kind.ORPHAN_IN_MONGO: 1}
    scene.assert_ok()


def test_which_of_two_nodes_was_live_is_not_guessed(scene: Scene) -> None:
    lost = scene.node_ids("0.txt")[1]
    body = scene.data().find_one({"_id": lost})
    twin = an_old_node_id(time.time() - 3600)
    scene.data().insert_one(body | {"_id": twin, "__data__": body["__data__"] | {"id_": twin}})
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = %s", lost)
    scene.entries("ref_doc_info").delete_one({"_id": scene.id_of("0.txt")})
    report = scene.rs.repair()
    assert not report.ok
    assert report.kept.counts == {Kind.ORPHAN_IN_MONGO: 2, Kind.WRONG_COUNT: 1}
    assert scene.data().count_documents({"_id": {"$in": [lost, twin]}}) == 2
    assert not {lost, twin}.intersection(scene.node_ids())
    assert scene.rs.ingest(scene.folder, collection=COLLECTION).updated == 1
    assert scene.repair().ok
    scene.assert_ok()


def test_nodes_that_are_in_neither_store_are_reported_and_read_again(scene: Scene) -> None:
    gone = scene.node_ids("0.txt")[:2]
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = ANY(%s)", gone)
    scene.data().delete_many({"_id": {"$in": gone}})
    report = scene.repair()
    assert not report.ok
    assert report.kept.examples[Kind.WRONG_COUNT][0].startswith(f"{scene.id_of('0.txt')}: 2 of its nodes")
    assert not scene.rs.verify().ok
    ingested = scene.rs.ingest(scene.folder, collection=COLLECTION)
    assert (ingested.updated, ingested.unchanged) == (1, 3)
    scene.assert_ok()


@pytest.mark.parametrize(
    "statement", ["DELETE FROM ragstore.document", "UPDATE ragstore.document SET deleted_at = now()"]
)
def test_ledger_rows_are_rebuilt_from_the_stores(statement: str, scene: Scene) -> None:
    before = scene.sql(
        "SELECT document_id, source_uri, n_nodes, content_hash, doc_hash, metadata FROM ragstore.document ORDER BY 1"
    )
    scene.sql(f"{statement} WHERE document_id <> %s", scene.id_of("0.txt"))
    report = scene.repair()
    assert report.ok
    assert report.embedded == 0
    assert report.repaired.counts[Kind.MISSING_IN_LEDGER] == 3
    assert (
        scene.sql(
            "SELECT document_id, source_uri, n_nodes, content_hash, doc_hash, metadata FROM ragstore.document ORDER BY 1"
        )
        == before
    )
    scene.assert_ok()
    ingested = scene.rs.ingest(scene.folder, collection=COLLECTION)
    assert (ingested.embedded, ingested.failed, ingested.added) == (0, 0, 0)
    scene.assert_ok()


def test_a_document_that_ledger_and_table_lost_comes_back_from_mongo(scene: Scene) -> None:
    before, hits = rows(scene), scene.hits()
    for table in ("data_docs", "document"):
        scene.sql(f"DELETE FROM ragstore.{table} WHERE document_id = %s", scene.id_of("0.txt"))
    report = scene.repair()
    assert report.ok
    assert report.repaired.counts[Kind.MISSING_IN_LEDGER] == 1
    assert rows(scene) == before
    assert scene.hits() == hits
    scene.assert_ok()


def test_half_a_document_that_nothing_else_knows_is_kept_as_it_is(scene: Scene) -> None:
    for table in ("data_docs", "document"):
        scene.sql(f"DELETE FROM ragstore.{table} WHERE document_id = %s", scene.id_of("0.txt"))
    body = scene.data().find_one_and_delete({"__data__.relationships.1.node_id": scene.id_of("0.txt")})
    n_left = scene.data().count_documents({})
    report = scene.repair()
    assert not report.ok
    assert report.kept.counts[Kind.MISSING_IN_LEDGER] == 1
    assert scene.data().count_documents({}) == n_left
    scene.data().insert_one(body)
    assert scene.repair().ok
    scene.assert_ok()


def test_copies_that_a_foreign_writer_made_are_removed(scene: Scene) -> None:
    hits = scene.hits()
    for node_id in scene.node_ids():
        a_copied_row(scene, node_id, str(uuid4()))
    assert scene.hits() != hits
    report = scene.repair()
    assert report.ok
    assert report.repaired.counts[Kind.DOUBLED_ROW] == len(scene.node_ids())
    assert scene.hits() == hits
    scene.assert_ok()


def test_a_foreign_row_of_another_text_is_kept(scene: Scene) -> None:
    a_copied_row(scene, scene.node_ids("0.txt")[0], "foreign")
    scene.sql("UPDATE ragstore.data_docs SET text = 'the only copy' WHERE node_id = 'foreign'")
    report = scene.repair()
    assert not report.ok
    assert report.kept.counts == {Kind.UNREADABLE_ROW: 1, Kind.WRONG_COUNT: 1}
    assert scene.sql("SELECT text FROM ragstore.data_docs WHERE node_id = 'foreign'") == [("the only copy",)]
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = 'foreign'")
    assert scene.repair().ok
    scene.assert_ok()


def test_what_foreign_code_can_do_with_a_plain_vector_store_is_nothing(scene: Scene) -> None:
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.postgres import PGVectorStore

    plain = PGVectorStore.from_params(
        connection_string=postgres_url(scene.settings).replace("postgresql://", "postgresql+psycopg2://"),
        async_connection_string=postgres_url(scene.settings).replace("postgresql://", "postgresql+asyncpg://"),
        schema_name="ragstore", table_name=COLLECTION, embed_dim=256, use_jsonb=True, perform_setup=False,
    )  # fmt: skip
    before = scene.contents()
    with pytest.raises(Exception, match="null value in column"):
        plain.add([TextNode(text="foreign", embedding=[1.0] * 256)])
    assert plain._engine is not None
    plain._engine.dispose()
    assert scene.contents() == before


def test_a_ledger_that_counts_too_few_rows_counts_again(scene: Scene) -> None:
    scene.sql("UPDATE ragstore.document SET n_nodes = 1 WHERE document_id = %s", scene.id_of("0.txt"))
    assert scene.repair().ok
    scene.assert_ok()


def test_vectors_that_no_search_can_find_are_computed_again(scene: Scene) -> None:
    before, hits = rows(scene), scene.hits()
    zero = f"[{','.join(['0'] * 256)}]"
    scene.sql("UPDATE ragstore.data_docs SET embedding = %s WHERE document_id = %s", zero, scene.id_of("0.txt"))
    report = scene.repair()
    assert report.ok
    assert report.embedded == len(scene.node_ids("0.txt"))
    assert rows(scene) == before
    assert scene.hits() == hits


def test_segments_of_vectors_that_were_computed_again_are_made_again(scene: Scene) -> None:
    before, hits = rows(scene), scene.hits()
    zero = f"[{','.join(['0'] * 256)}]"
    scene.sql("UPDATE ragstore.data_docs SET embedding = %s WHERE document_id = %s", zero, scene.id_of("1.txt"))
    pool = pool_of(scene.rs)
    seal(pool, collection_of(scene.rs, COLLECTION), at_once=len(before) // 3)
    n_segments = len(scene.sql(SEGMENTS))
    assert scene.repair().ok
    assert rows(scene) == before
    # Those after the first that had one of them are fresh again.
    assert len(scene.sql(SEGMENTS)) < n_segments
    assert scene.hits() == hits
    seal(pool, collection_of(scene.rs, COLLECTION))
    assert scene.hits() == hits
    assert scene.sql(OTHERS) == []
    scene.assert_ok()


def test_indexes_are_built_again(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path) -> None:
    small = settings.model_copy(update={"index_min_nodes": 10})
    with a_scene(small, mongo_database, tmp_path / "docs") as scene:
        ((table, is_there),) = scene.sql(SEGMENTS)
        assert is_there
        sizes = scene.sql(SIZES)
        scene.sql(f"DROP TABLE ragstore.{table}")
        scene.sql(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE '%%data_docs_metadata_idx'"
        )
        scene.sql("DROP INDEX ragstore.data_docs_text_idx")
        report = scene.repair()
        assert report.ok
        assert report.repaired.counts == {Kind.INVALID_INDEX: 3}
        assert [is_there for _, is_there in scene.sql(SEGMENTS)] == [True]
        assert scene.sql(SIZES) == sizes
        assert scene.sql(OTHERS) == []
        scene.assert_ok()


def test_a_dropped_table_gets_its_index_too(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    small = settings.model_copy(update={"index_min_nodes": 10})
    with a_scene(small, mongo_database, tmp_path / "docs") as scene:
        hits = scene.hits()
        scene.sql("DROP TABLE ragstore.data_docs")
        assert scene.repair().ok
        assert [is_there for _, is_there in scene.sql(SEGMENTS)] == [True]
        assert scene.hits() == hits
        scene.assert_ok()


def test_two_repairs_do_not_run_at_once(scene: Scene) -> None:
    connection = psycopg2.connect(postgres_url(scene.settings))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s, 0)", (0x5241_4752,))
            with pytest.raises(RefusedError):
                scene.rs.repair()
    finally:
        connection.close()
    assert scene.rs.repair().ok
