from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg2
import pytest

from ragstore.app.migrations import apply_postgres, plan, plan_sql
from ragstore.embedded.programs import find_programs
from ragstore.errors import EmbeddedServerError, SchemaVersionError, StoreSetupError
from ragstore.migrate import versions
from ragstore.settings import Settings
from tests.migration.catalog import catalog_of
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
from tests.support import servers
from tests.support.servers import Servers

OTHER = "order"  # a word of SQL, which has to be quoted


@pytest.fixture(scope="module")
def psql() -> str:
    """PostgreSQL's client: of the embedded servers, or on the PATH."""
    try:
        found: str | None = str(find_programs().postgres_bin / "psql")
    except EmbeddedServerError:
        found = shutil.which("psql")
    if found is None:
        pytest.skip("takes PostgreSQL's client psql")
    return found


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(psql: str, tmp_path: Path) -> Run:
    """What an administrator does with a script."""

    def running(url: str, script: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / f"{uuid4().hex[:8]}.sql"
        file.write_text(script, encoding="utf-8")
        return subprocess.run(
            [psql, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-f", file, url],
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )

    return running


@pytest.fixture
def two_databases(test_servers: Servers) -> Iterator[tuple[str, str]]:
    """Before the first migration."""
    with ExitStack() as both:
        yield (
            both.enter_context(servers.cloned_database(test_servers, None)),
            both.enter_context(servers.cloned_database(test_servers, None)),
        )


def on(settings: Settings, url: str, schema: str = "ragstore") -> Settings:
    """These settings with another database of PostgreSQL."""
    assert settings.mongo_url is not None
    return Settings(
        postgres_url=url,
        postgres_schema=schema,
        mongo_url=settings.mongo_url.get_secret_value(),
        mongo_database=settings.mongo_database,
    )


def owners(url: str, schema: str) -> list[tuple[object, ...]]:
    """Who owns what is in a schema."""
    return execute(
        url,
        "SELECT DISTINCT owner::regrole::text FROM ("
        f"SELECT nspowner FROM pg_namespace WHERE nspname = '{schema}'"
        f" UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = '\"{schema}\"'::regnamespace"
        f" UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = '\"{schema}\"'::regnamespace) AS made (owner)",
    )


def assert_run(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr


def assert_alike(applied: str, scripted: str, schema: str) -> None:
    assert catalog_of(scripted, schema) == catalog_of(applied, schema)
    assert version_of(scripted, schema) == version_of(applied, schema)
    assert recorded_in(scripted, schema) == recorded_in(applied, schema)
    assert owners(scripted, schema) == owners(applied, schema)
    assert len(owners(scripted, schema)) == 1


def an_older_collection(url: str, schema: str) -> None:
    """With a node, so that steps have rows to rewrite."""
    execute(
        url,
        f'INSERT INTO "{schema}".collection'
        " (name, model, dim, metric, chunk_size, chunk_overlap, text_search_config)"
        " VALUES ('old', 'external', 2, 'cosine', 512, 64, 'english')",
    )
    execute(url, f"SELECT \"{schema}\".ensure_collection_table('old')")
    execute(
        url,
        f'INSERT INTO "{schema}".data_old (text, metadata_, node_id, embedding, ordinal, user_metadata)'
        " VALUES ('error E-4711', '{}', 'n', '[1,0]', 0, '{}')",
    )


@pytest.mark.parametrize("schema", ["ragstore", OTHER])
def test_the_script_for_a_fresh_database_makes_what_apply_makes(
    settings: Settings, two_databases: tuple[str, str], run: Run, schema: str
) -> None:
    applied, scripted = two_databases
    apply_postgres(applied, schema=schema)
    steps, script = plan_sql(on(settings, scripted, schema))
    assert steps == versions.steps("postgres")
    assert execute(scripted, f"SELECT FROM pg_namespace WHERE nspname = '{schema}'") == []
    assert_run(run(scripted, script))
    assert_alike(applied, scripted, schema)
    assert apply_postgres(scripted, schema=schema) == []
    assert plan(on(settings, scripted, schema)) == []
    assert_alike(applied, scripted, schema)


@pytest.mark.parametrize("schema", ["ragstore", OTHER])
@pytest.mark.parametrize("since", ["0002", "0006", "0009"])
def test_the_script_for_an_older_database_makes_what_apply_makes(
    settings: Settings, two_databases: tuple[str, str], run: Run, own_steps: Path, schema: str, since: str
) -> None:
    applied, scripted = two_databases
    with without_steps(own_steps, since):
        for url in two_databases:
            apply_postgres(url, schema=schema)
            an_older_collection(url, schema)
    apply_postgres(applied, schema=schema)
    steps, script = plan_sql(on(settings, scripted, schema))
    assert steps[0].version == since
    assert_run(run(scripted, script))
    assert_alike(applied, scripted, schema)
    assert apply_postgres(scripted, schema=schema) == []
    words = f"SELECT count(*) FROM \"{schema}\".data_old WHERE text_search_tsv @@ '4711 & e-4711'::tsquery"
    assert execute(scripted, words) == [(1,)]


def test_a_plan_reads_only(settings: Settings, empty_database: str, postgres_database: str, own_steps: Path) -> None:
    a_step(own_steps, "CREATE TABLE ragstore.second (a int);")
    for url, first in ((empty_database, "0001"), (postgres_database, NEXT)):
        script = plan_sql(on(settings, f"{url}?options=-c%20default_transaction_read_only%3Don"))[1]
        assert f"\n-- {first}_" in script


def test_what_is_up_to_date_has_a_script_that_does_nothing(
    settings: Settings, run: Run, postgres_database: str
) -> None:
    steps, script = plan_sql(settings)
    assert steps == []
    assert all(line.startswith("--") for line in script.splitlines())
    assert_run(run(postgres_database, script))


def test_steps_of_mongodb_are_named_in_comments(settings: Settings, empty_database: str) -> None:
    fresh = on(settings, empty_database).model_copy(update={"mongo_database": f"{settings.mongo_database}_fresh"})
    steps, script = plan_sql(fresh)
    assert [step.store for step in steps if step.store == "mongo"]
    comments = [line for line in script.splitlines() if line.startswith("--")]
    assert any("run 'ragstore migrate apply' for these" in line for line in comments)
    for step in versions.steps("mongo"):
        assert any(step.name in line for line in comments)


def test_a_script_that_is_run_again_or_late_changes_nothing(
    settings: Settings, two_databases: tuple[str, str], run: Run, own_steps: Path
) -> None:
    early, late = two_databases
    with without_steps(own_steps, "0008"):
        apply_postgres(early)
    script = plan_sql(on(settings, early))[1]
    apply_postgres(early)
    with without_steps(own_steps, "0003"):
        apply_postgres(late)
    for url in two_databases:
        before = (version_of(url), recorded_in(url), catalog_of(url))
        refused = run(url, script)
        assert refused.returncode == 3
        assert f"the schema is at version {before[0]}, this step follows 0007" in refused.stderr
        assert "ragstore migrate plan --sql" in refused.stderr
        assert (version_of(url), recorded_in(url), catalog_of(url)) == before


def test_a_script_for_a_fresh_database_is_refused_by_one_that_is_not(
    settings: Settings, empty_database: str, run: Run, postgres_database: str
) -> None:
    before = catalog_of(postgres_database)
    refused = run(postgres_database, plan_sql(on(settings, empty_database))[1])
    assert refused.returncode == 3 and f"at version {LAST}, this step is the first" in refused.stderr
    assert catalog_of(postgres_database) == before


def test_two_scripts_at_once_run_each_step_once(
    settings: Settings, run: Run, postgres_database: str, own_steps: Path
) -> None:
    a_step(own_steps, "SELECT pg_advisory_xact_lock(7); CREATE TABLE ragstore.second (a int);")
    script = plan_sql(settings)[1]
    holder = psycopg2.connect(postgres_database)
    with ThreadPoolExecutor(2) as administrators:
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(7)")
            both = [administrators.submit(run, postgres_database, script) for _ in range(2)]
            until(lambda: len(waiting_for_locks(postgres_database)) == 2)
        holder.close()
        done = sorted((each.result(timeout=60) for each in both), key=lambda each: each.returncode)
    assert_run(done[0])
    assert done[1].returncode == 3 and f"at version {NEXT}, this step follows {LAST}" in done[1].stderr
    assert len(recorded_in(postgres_database)) == int(NEXT)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE ragstore.second (a int); SELECT 1 / 0;",
        "-- transaction: none\nCREATE INDEX CONCURRENTLY ON ragstore.event ((1 / (event_id - event_id)));\nSELECT 1 / 0;",
    ],
)
def test_a_step_of_a_script_that_fails_leaves_the_version_before_it(
    settings: Settings, psql: str, postgres_database: str, own_steps: Path, sql: str
) -> None:
    a_step(own_steps, sql)
    script = plan_sql(settings)[1]
    # Without the option ON_ERROR_STOP: the script sets it itself.
    done = subprocess.run(
        [psql, "-X", postgres_database], input=script, capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 3 and "division by zero" in done.stderr
    assert version_of(postgres_database) == LAST and len(recorded_in(postgres_database)) == int(LAST)
    assert execute(postgres_database, "SELECT to_regclass('ragstore.second')") == [(None,)]


def test_a_step_without_a_transaction_stands_outside_of_one_in_the_script(
    settings: Settings, run: Run, postgres_database: str, own_steps: Path
) -> None:
    sql = "DROP INDEX CONCURRENTLY IF EXISTS ragstore.event_at_idx;\nCREATE INDEX CONCURRENTLY event_at_idx ON ragstore.event (at);"
    a_step(own_steps, f"-- transaction: none\n{sql}")
    assert_run(run(postgres_database, plan_sql(settings)[1]))
    assert execute(
        postgres_database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ragstore.event_at_idx'::regclass"
    ) == [(True,)]
    assert apply_postgres(postgres_database) == []
    assert version_of(postgres_database) == NEXT


@contextmanager
def a_role(url: str) -> Iterator[tuple[str, str]]:
    """One that may make no schema: its name, which has to be quoted, and its URL."""
    name = f"Plain {uuid4().hex[:8]}"
    execute(url, f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'plain'")
    try:
        parts = urlsplit(url)
        yield name, urlunsplit(parts._replace(netloc=f"{name.replace(' ', '%20')}:plain@{parts.hostname}:{parts.port}"))
    finally:
        execute(url, f'REASSIGN OWNED BY "{name}" TO CURRENT_USER; DROP OWNED BY "{name}"; DROP ROLE "{name}"')


def test_what_an_administrator_makes_for_a_plain_role_belongs_to_that_role(
    settings: Settings, empty_database: str, run: Run, own_steps: Path
) -> None:
    with a_role(empty_database) as (name, url):
        for since in ("0007", "9999"):
            with without_steps(own_steps, since):
                assert_run(run(empty_database, plan_sql(on(settings, url))[1]))
                assert owners(empty_database, "ragstore") == [(f'"{name}"',)]
        assert apply_postgres(url) == []
        # Made by somebody else too, it belongs to the owner of the tables.
        a_step(own_steps, "CREATE TABLE ragstore.second (a int);")
        assert_run(run(empty_database, plan_sql(on(settings, empty_database))[1]))
        assert owners(empty_database, "ragstore") == [(f'"{name}"',)]


def test_a_role_that_may_not_act_for_the_owner_is_refused_before_the_first_step(
    settings: Settings, postgres_database: str, run: Run, own_steps: Path
) -> None:
    a_step(own_steps, "CREATE TABLE ragstore.second (a int);")
    script = plan_sql(settings)[1]
    with a_role(postgres_database) as (_, url):
        refused = run(url, script)
    assert refused.returncode == 3 and "permission denied to set role" in refused.stderr
    assert version_of(postgres_database) == LAST


def test_the_extension_in_a_schema_that_is_on_no_path_is_found_by_the_script(
    settings: Settings, empty_database: str, run: Run
) -> None:
    execute(empty_database, 'CREATE SCHEMA "Extensions"; CREATE EXTENSION vector SCHEMA "Extensions"')
    assert_run(run(empty_database, plan_sql(on(settings, empty_database))[1]))
    assert apply_postgres(empty_database) == []


def test_a_plan_is_refused_where_apply_is(settings: Settings, empty_database: str, own_steps: Path) -> None:
    execute(empty_database, "CREATE SCHEMA ragstore; CREATE TABLE ragstore.document (a int)")
    with pytest.raises(StoreSetupError, match="another program"):
        plan_sql(on(settings, empty_database))
    step = own_steps / "0001_pre_create_ledger.sql"
    step.write_text(step.read_text() + "\n-- edited\n")
    with pytest.raises(SchemaVersionError, match="was changed after it was applied"):
        plan_sql(settings)
    with pytest.raises(StoreSetupError, match="does not exist"):
        plan_sql(on(settings, f"{empty_database}_gone"))
