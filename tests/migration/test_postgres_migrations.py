from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from tests.support import servers
from tests.support.segments import seal
from tests.support.servers import Servers


@pytest.fixture
def empty_database(test_servers: Servers) -> Iterator[str]:
    with servers.cloned_database(test_servers, None) as url:
        yield url


@pytest.fixture
def own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of steps, used instead of the real one."""
    copy = shutil.copytree(versions.folder(), tmp_path / "migrations")
    monkeypatch.setattr(versions, "folder", lambda: copy)
    return copy / "postgres"


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    waiting, deadline = threading.Event(), time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        waiting.wait(0.02)


LAST = versions.head("postgres")
NEXT = f"{int(LAST) + 1:04d}"


def a_step(folder: Path, sql: str) -> None:
    """The one after the real ones."""
    (folder / f"{NEXT}_pre_add_step.sql").write_text(f"-- Why: a test\n{sql}")


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
    assert execute(postgres_database, "SELECT version_num FROM ragstore.schema_version") == [(NEXT,)]
    assert execute(postgres_database, "INSERT INTO ragstore.second DEFAULT VALUES RETURNING *") == [("100 %: all",)]


def test_the_keywords_of_older_collections_are_written_again(
    empty_database: str, own_steps: Path, tmp_path: Path
) -> None:
    later = tmp_path / "later"
    later.mkdir()
    for path in own_steps.glob("*.sql"):
        if path.name >= "0009":
            path.rename(later / path.name)
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
    for path in later.iterdir():
        path.rename(own_steps / path.name)
    apply_postgres(empty_database)
    assert execute(empty_database, asked) == [(5,)]
    indexes = execute(empty_database, "SELECT indexname FROM pg_indexes WHERE tablename = 'data_old' ORDER BY 1")
    assert [name for (name,) in indexes] == [
        "data_old_chunk_hash_idx", "data_old_document_idx", "data_old_metadata_idx", "data_old_node_id_key",
        "data_old_pkey", "data_old_text_idx",
    ]  # fmt: skip


def test_hnsw_indexes_of_before_are_dropped_and_their_nodes_are_found_and_sealed(
    empty_database: str, own_steps: Path, tmp_path: Path
) -> None:
    later = [path for path in own_steps.iterdir() if path.name[:4].isdigit() and path.name > "0006"]
    for path in later:
        path.rename(tmp_path / path.name)
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
    for path in later:
        (tmp_path / path.name).rename(path)
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
    assert execute(postgres_database, "SELECT version_num FROM ragstore.schema_version") == [(LAST,)]
    assert execute(postgres_database, "SELECT to_regclass('ragstore.second')") == [(None,)]


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
    script = (
        "import sys; from pathlib import Path; from ragstore.migrate import versions\n"
        "from ragstore.app.migrations import apply_postgres\n"
        "versions.folder = lambda: Path(sys.argv[2])\n"
        "apply_postgres(sys.argv[1])"
    )
    child = subprocess.Popen([sys.executable, "-c", script, empty_database, str(own_steps.parent)])
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
    assert execute(empty_database, "SELECT version_num FROM ragstore.schema_version") == [(LAST,)]
    a_step(own_steps, "CREATE TABLE ragstore.second (a int);")
    until(lambda: not execute(empty_database, sleeping))
    assert [step.version for step in apply_postgres(empty_database)] == [NEXT]
