from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg2
import pytest

import ragstore
from ragstore.app.migrations import apply_postgres
from ragstore.errors import SchemaVersionError, StoreError, StoreUnavailableError
from ragstore.migrate import postgres, versions
from ragstore.postgres.collections import get_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.search import Query, vector_search
from ragstore.settings import Settings
from tests.migration.catalog import EXPECTED, add_a_collection, catalog_of
from tests.migration.steps import (
    LAST,
    NEXT,
    a_step,
    execute,
    recorded_in,
    until,
    version_of,
    waiting_for_locks,
    without_steps,
)
from tests.support.segments import seal


def test_the_catalog_after_all_migrations_is_the_expected_one(postgres_database: str) -> None:
    add_a_collection(postgres_database)
    assert catalog_of(postgres_database) == EXPECTED.read_text(encoding="utf-8"), (
        "run 'make catalog' and review the diff"
    )


def test_applying_twice_changes_nothing(empty_database: str) -> None:
    assert [step.name for step in apply_postgres(empty_database)] == [s.name for s in versions.steps("postgres")]
    before = catalog_of(empty_database)
    assert apply_postgres(empty_database) == []
    assert catalog_of(empty_database) == before


def test_processes_that_migrate_at_the_same_time_do_it_once(empty_database: str) -> None:
    with ThreadPoolExecutor(4) as migrators:
        applied = list(migrators.map(lambda _: apply_postgres(empty_database), range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(versions.steps("postgres"))]


def test_a_step_that_was_changed_after_it_was_applied_is_refused(empty_database: str, own_steps: Path) -> None:
    apply_postgres(empty_database)
    step = own_steps / "0001_pre_create_ledger.sql"
    step.write_text(step.read_text() + "\n-- edited\n")
    with pytest.raises(SchemaVersionError, match="was changed after it was applied"):
        apply_postgres(empty_database)


def test_a_new_step_is_planned_and_applied(postgres_database: str, own_steps: Path) -> None:
    a_step(own_steps, "CREATE TABLE ragstore.second (percent text DEFAULT '100 %: all');")
    with psycopg2.connect(postgres_database) as connection:
        assert [step.name for step in postgres.pending(connection)] == [f"{NEXT}_pre_add_step"]
    connection.close()
    assert [step.name for step in apply_postgres(postgres_database)] == [f"{NEXT}_pre_add_step"]
    assert version_of(postgres_database) == NEXT
    assert execute(postgres_database, "INSERT INTO ragstore.second DEFAULT VALUES RETURNING *") == [("100 %: all",)]


def test_the_keywords_of_older_collections_are_written_again(empty_database: str, own_steps: Path) -> None:
    with without_steps(own_steps, "0009"):
        apply_postgres(empty_database)
    execute(
        empty_database,
        "INSERT INTO ragstore.collection (name, model, dim, metric, chunk_size, chunk_overlap, text_search_config)"
        " VALUES ('old', 'external', 2, 'cosine', 512, 64, 'english')",
    )
    execute(empty_database, "SELECT ragstore.ensure_collection_table('old')")
    execute(
        empty_database,
        "INSERT INTO ragstore.data_old (text, metadata_, node_id, embedding, ordinal, user_metadata)"
        " SELECT 'error E-4711 東京タワー', '{}', 'n' || i, '[1,0]', i, '{}' FROM generate_series(1, 5) i",
    )
    asked = "SELECT count(*) FROM ragstore.data_old WHERE text_search_tsv @@ '4711 & e-4711 & 東京'::tsquery"
    assert execute(empty_database, asked) == [(0,)]
    apply_postgres(empty_database)
    assert execute(empty_database, asked) == [(5,)]
    indexes = execute(empty_database, "SELECT indexname FROM pg_indexes WHERE tablename = 'data_old' ORDER BY 1")
    assert [name for (name,) in indexes] == [
        "data_old_chunk_hash_idx", "data_old_document_idx", "data_old_metadata_idx", "data_old_node_id_key",
        "data_old_pkey", "data_old_text_idx",
    ]  # fmt: skip


def test_hnsw_indexes_of_before_are_dropped_and_their_nodes_are_found_and_sealed(
    empty_database: str, own_steps: Path
) -> None:
    with without_steps(own_steps, "0006"):
        apply_postgres(empty_database)
    execute(
        empty_database,
        "INSERT INTO ragstore.collection (name, model, dim, metric, chunk_size, chunk_overlap, text_search_config)"
        " VALUES ('docs', 'external', 2, 'cosine', 32, 0, 'english')",
    )
    execute(empty_database, "SELECT ragstore.ensure_collection_table('docs')")
    execute(
        empty_database,
        "INSERT INTO ragstore.data_docs (text, metadata_, node_id, embedding, ordinal, user_metadata)"
        " SELECT '', '{}', 'n' || n, ('[1,' || n || ']')::vector, 0, '{}' FROM generate_series(1, 9) AS n",
    )
    index = "hnsw_1_0_ff ON ragstore.data_docs USING hnsw (embedding vector_cosine_ops) WHERE (id <= 255)"
    execute(empty_database, f"CREATE INDEX {index}")
    execute(empty_database, "UPDATE ragstore.collection SET segments = '[[0, 255, 9]]'")
    apply_postgres(empty_database)
    assert execute(empty_database, "SELECT relname FROM pg_class WHERE relname ^@ 'hnsw_'") == []
    pool = PostgresPool(empty_database)
    for _ in range(2):
        collection = get_collection(pool, "docs")
        with pool.autocommit() as connection:
            rows = vector_search(connection, collection, np.array([1, 9], dtype=np.float32), Query(9)).rows
        assert rows[0].node_id == "n9" and len(rows) == 9
        assert seal(pool, collection) == 9 - sum(segment.n_nodes for segment in collection.segments)
    pool.close()


def test_a_step_that_fails_leaves_the_version_before_it(postgres_database: str, own_steps: Path) -> None:
    a_step(own_steps, "CREATE TABLE ragstore.second (a int); SELECT 1 / 0;")
    with pytest.raises(StoreError, match="division by zero"):
        apply_postgres(postgres_database)
    assert version_of(postgres_database) == LAST
    assert execute(postgres_database, "SELECT to_regclass('ragstore.second')") == [(None,)]
    assert len(recorded_in(postgres_database)) == int(LAST)


def test_a_database_newer_than_the_program_is_refused(settings: Settings, postgres_database: str) -> None:
    execute(postgres_database, "UPDATE ragstore.schema_version SET version_num = '9999'")
    with pytest.raises(SchemaVersionError, match="9999"):
        ragstore.open(settings)


def test_an_unmigrated_configured_database_is_refused_with_the_command(settings: Settings, empty_database: str) -> None:
    with pytest.raises(SchemaVersionError) as refused:
        ragstore.open(Settings(postgres_url=empty_database, mongo_url=settings.mongo_url.get_secret_value()))  # type: ignore[union-attr]
    assert "ragstore migrate apply" in refused.value.hint


def test_a_waiting_migrator_does_not_block_an_index_that_is_built_concurrently(
    postgres_database: str, own_steps: Path
) -> None:
    holder = psycopg2.connect(postgres_database)
    holder.autocommit = True
    with holder.cursor() as cursor, ThreadPoolExecutor(1) as waiting:
        cursor.execute("SELECT pg_advisory_lock(%s)", (postgres.LOCK_KEY,))
        a_step(own_steps, "CREATE TABLE ragstore.second (a int);")
        migrator = waiting.submit(apply_postgres, postgres_database)
        until(lambda: n_tries(postgres_database) > 0)
        # Deadlocks, and leaves an invalid index, if the migrator waits inside pg_advisory_lock().
        cursor.execute("SET statement_timeout = '20s'")
        cursor.execute("CREATE INDEX CONCURRENTLY event_at_idx ON ragstore.event (at)")
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ragstore.event_at_idx'::regclass")
        assert cursor.fetchone() == (True,)
        cursor.execute("SELECT pg_advisory_unlock(%s)", (postgres.LOCK_KEY,))
        assert [step.version for step in migrator.result(timeout=30)] == [NEXT]
    holder.close()


def n_tries(url: str) -> int:
    rows = execute(
        url,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND (query LIKE '%pg_try_advisory_xact_lock%' OR query = 'ROLLBACK')",
    )
    return int(str(rows[0][0]))


def test_a_migrator_that_waits_too_long_says_for_what(postgres_database: str) -> None:
    holder = psycopg2.connect(postgres_database)
    with holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (postgres.LOCK_KEY,))
        with pytest.raises(StoreUnavailableError, match="another migration held the lock"):
            apply_postgres(postgres_database, wait_s=0.3)
    holder.close()


def test_a_migration_killed_in_the_middle_goes_on_where_it_stopped(empty_database: str, own_steps: Path) -> None:
    a_step(own_steps, "CREATE TABLE ragstore.second (a int); SELECT pg_sleep(600);")
    child = a_migrator(empty_database, own_steps)
    try:
        sleeping = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE '%pg_sleep(600)%' AND query NOT LIKE '%pg_stat_activity%'"
        )
        until(lambda: bool(execute(empty_database, sleeping)))
    finally:
        child.kill()
        child.wait()
    execute(empty_database, f"SELECT pg_terminate_backend(pid) FROM ({sleeping}) AS s")
    assert version_of(empty_database) == LAST
    a_step(own_steps, "CREATE TABLE ragstore.second (a int);")
    until(lambda: not execute(empty_database, sleeping))
    assert len(recorded_in(empty_database)) == int(LAST)
    assert [step.version for step in apply_postgres(empty_database)] == [NEXT]


def a_migrator(url: str, own_steps: Path) -> subprocess.Popen[bytes]:
    """A process that migrates by these steps."""
    script = (
        "import sys; from pathlib import Path; from ragstore.migrate import versions\n"
        "from ragstore.app.migrations import apply_postgres\n"
        "versions.folder = lambda: Path(sys.argv[2])\n"
        "apply_postgres(sys.argv[1])"
    )
    return subprocess.Popen([sys.executable, "-c", script, url, str(own_steps.parent)])


@contextmanager
def a_transaction(url: str, statement: str) -> Iterator[None]:
    """It is open for the length of the block."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        yield
    finally:
        connection.close()


def end_who_waits(url: str) -> None:
    for (pid,) in waiting_for_locks(url):
        execute(url, f"SELECT pg_terminate_backend({pid}, 10000)")


def test_a_step_whose_migrator_is_killed_while_it_records_it_is_not_done(
    postgres_database: str, own_steps: Path
) -> None:
    a_step(own_steps, "CREATE TABLE ragstore.second (a int);")
    step = versions.steps("postgres")[-1]
    with a_transaction(postgres_database, f"INSERT INTO ragstore.migration VALUES ('{step.name}', '')"):
        child = a_migrator(postgres_database, own_steps)
        try:
            until(lambda: len(waiting_for_locks(postgres_database)) == 1)
        finally:
            child.kill()
            child.wait()
        end_who_waits(postgres_database)
    assert version_of(postgres_database) == LAST
    assert execute(postgres_database, "SELECT to_regclass('ragstore.second')") == [(None,)]
    assert apply_postgres(postgres_database) == [step]
    assert recorded_in(postgres_database)[-1] == (step.name, step.checksum)


def test_two_migrators_that_both_have_the_lock_run_a_step_once(postgres_database: str, own_steps: Path) -> None:
    """As when the first one was paused for longer than its lease."""
    a_step(own_steps, "SELECT pg_advisory_xact_lock(7); CREATE TABLE ragstore.second (a int);")
    pool = PostgresPool(postgres_database)
    with ThreadPoolExecutor(2) as migrators:
        with a_transaction(postgres_database, "SELECT pg_advisory_xact_lock(7)"):
            both = [migrators.submit(postgres.apply, pool.unlent, schema="ragstore") for _ in range(2)]
            until(lambda: len(waiting_for_locks(postgres_database)) == 2)
        assert sorted(len(each.result(timeout=30)) for each in both) == [0, 1]
    pool.close()
    assert version_of(postgres_database) == NEXT


INDEX = """-- transaction: none
DROP INDEX CONCURRENTLY IF EXISTS ragstore.event_at_idx;

-- Concurrently, as workers go on adding events.
CREATE INDEX CONCURRENTLY event_at_idx ON ragstore.event (at);
"""
IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ragstore.event_at_idx')"


def test_a_step_without_a_transaction_is_recorded_after_its_last_statement(
    postgres_database: str, own_steps: Path
) -> None:
    a_step(own_steps, INDEX)
    with a_transaction(
        postgres_database, "INSERT INTO ragstore.event (worker, collection, action) VALUES ('', '', '')"
    ):
        child = a_migrator(postgres_database, own_steps)
        try:
            until(lambda: execute(postgres_database, IS_VALID) == [(False,)])
            until(lambda: len(waiting_for_locks(postgres_database)) == 1)
        finally:
            child.kill()
            child.wait()
        end_who_waits(postgres_database)
        assert execute(postgres_database, IS_VALID) == [(False,)]
        assert version_of(postgres_database) == LAST and len(recorded_in(postgres_database)) == int(LAST)
    assert [step.version for step in apply_postgres(postgres_database)] == [NEXT]
    assert execute(postgres_database, IS_VALID) == [(True,)]
    assert version_of(postgres_database) == NEXT and len(recorded_in(postgres_database)) == int(NEXT)


def test_a_checksum_that_an_earlier_program_did_not_come_to_record_is_recorded(postgres_database: str) -> None:
    before = recorded_in(postgres_database)
    execute(postgres_database, f"DELETE FROM ragstore.migration WHERE name ^@ '{LAST}'")
    assert apply_postgres(postgres_database) == []
    assert recorded_in(postgres_database) == before


def test_every_file_in_the_folders_is_a_step_and_their_numbers_have_no_gap() -> None:
    for store, suffix in (("postgres", ".sql"), ("mongo", ".py")):
        found = versions.steps(store)  # type: ignore[arg-type]
        files = [path for path in (versions.folder() / store).iterdir() if path.name != "__pycache__"]
        assert {step.path for step in found} == set(files) and {path.suffix for path in files} == {suffix}
        assert [step.version for step in found] == [f"{number:04d}" for number in range(1, len(found) + 1)]
