"""Connections whose server, role, database, environment or URL say something else than ragstore's SQL relies on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg2
import pytest
from pydantic import SecretStr

import ragstore
from ragstore.app import migrations, servers
from ragstore.app.migrations import apply_postgres
from ragstore.app.wiring import postgres_pool, reachable
from ragstore.errors import RagstoreError, StoreSetupError, StoreUnavailableError
from ragstore.migrate import requirements
from ragstore.mongo import client as mongo
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.session import SETTINGS
from ragstore.settings import Settings
from tests.support import servers as test_servers_module
from tests.support.fleet import a_fleet
from tests.support.parts import execute, postgres_url
from tests.support.pooler import a_pooler
from tests.support.servers import Servers

GERMAN = "Die Häuser stehen am Fluss, die Straße führt über die Brücke."


def name_of(settings: Settings) -> str:
    return urlsplit(postgres_url(settings)).path.lstrip("/")


def for_database(settings: Settings, setting: str) -> None:
    """As a DBA would."""
    execute(settings, f'ALTER DATABASE "{name_of(settings)}" SET {setting}')


def shown(url: str, *names: str, **options: Any) -> dict[str, str]:
    """What these settings are on a connection of a pool."""
    pool = PostgresPool(url, **options)
    try:
        with pool.autocommit() as connection, connection.cursor() as cursor:
            found = {}
            for name in names:
                cursor.execute(f"SHOW {name}")
                (found[name],) = cursor.fetchone() or ()
            return found
    finally:
        pool.close()


def assert_a_text_is_kept(settings: Settings, folder: Path) -> None:
    (folder / "de.txt").write_text(GERMAN, encoding="utf-8")
    with ragstore.open(settings) as rs:
        assert rs.ingest(str(folder)).added == 1
        assert rs.query("Häuser", mode="keyword")[0].text == GERMAN
        assert rs.verify(deep=True).ok
    assert execute(settings, "SELECT text FROM ragstore.data_default") == [(GERMAN,)]


@pytest.mark.parametrize("where", ["environment", "database", "url"])
def test_another_client_encoding_garbles_no_text(
    where: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    elif where == "database":
        for_database(settings, "client_encoding = 'latin1'")
    else:
        settings = settings.model_copy(update={"postgres_url": _with(settings, "client_encoding=latin1")})
    assert_a_text_is_kept(settings, tmp_path)


@pytest.mark.parametrize(
    "setting", ["standard_conforming_strings = off", "array_nulls = off", "search_path = ''", "datestyle = 'SQL, DMY'"]
)
def test_a_setting_of_the_database_changes_no_answer(setting: str, settings: Settings, tmp_path: Path) -> None:
    for_database(settings, setting)
    (tmp_path / "a.md").write_text("# Pump\n\nThe pump C:\\new\\table needs oil.\n")
    with ragstore.open(settings) as rs:
        assert rs.ingest(str(tmp_path)).added == 1
        assert rs.ingest(str(tmp_path)).unchanged == 1
        for mode in ("vector", "keyword", "hybrid"):
            assert "C:\\new\\table" in rs.query("pump C:\\new\\table", mode=mode)[0].text
        assert rs.verify(deep=True).ok
        assert rs.repair().ok


@pytest.mark.parametrize("way", ["direct", "pooled"])
def test_every_setting_that_answers_rely_on_is_ours_whatever_the_database_says(way: str, settings: Settings) -> None:
    others = {
        "array_nulls": "off",
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "extra_float_digits": "0",
        "bytea_output": "escape",
        "intervalstyle": "iso_8601",
        "quote_all_identifiers": "on",
        "transform_null_equals": "on",
        "gin_fuzzy_search_limit": "7",
        "row_security": "off",
    }
    assert set(others) == set(SETTINGS)
    for name, value in others.items():
        for_database(settings, f"{name} = '{value}'")
    with a_pooler(postgres_url(settings)) as pooler:
        url = pooler.url if way == "pooled" else postgres_url(settings)
        assert shown(url, *SETTINGS) == SETTINGS
        pool = PostgresPool(url)
        with pool.transaction() as cursor:
            cursor.execute("SHOW transaction_isolation")
            assert cursor.fetchone() == ("read committed",)
        pool.close()


def test_a_commit_that_would_not_be_durable_is(settings: Settings) -> None:
    for_database(settings, "synchronous_commit = off")
    assert shown(postgres_url(settings), "synchronous_commit") == {"synchronous_commit": "on"}


def test_what_the_url_says_wins(settings: Settings) -> None:
    url = (
        f"{postgres_url(settings)}?application_name=myapp&connect_timeout=3&keepalives_idle=77&options="
        "-c%20lock_timeout%3D1234%20-c%20search_path%3Dfoo,public%20-c%20statement_timeout%3D99000"
        "%20-c%20idle_in_transaction_session_timeout%3D88000"
    )
    names = (
        "application_name",
        "lock_timeout",
        "search_path",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
    )
    assert list(shown(url, *names, statement_timeout_s=7).values()) == ["myapp", "1234ms", "foo,public", "99s", "88s"]
    pool = PostgresPool(url)
    with pool.autocommit() as connection:
        said = connection.info.dsn_parameters
    pool.close()
    assert (said["connect_timeout"], said["keepalives_idle"]) == ("3", "77")


def test_what_the_environment_says_wins_over_defaults(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGAPPNAME", "theirs")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "9")
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=1234 --statement-timeout=5000")
    found = shown(postgres_url(settings), "application_name", "lock_timeout", "statement_timeout")
    assert list(found.values()) == ["theirs", "1234ms", "5s"]
    for_database(settings, "standard_conforming_strings = off")
    found = shown(postgres_url(settings), "standard_conforming_strings", "lock_timeout")
    assert list(found.values()) == ["on", "1234ms"]


def test_what_a_service_file_says_wins_over_defaults(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "services").write_text(
        "[mine]\nkeepalives_idle=66\nconnect_timeout=8\noptions=-c statement_timeout=4000\napplication_name=served\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    pool = PostgresPool(f"{postgres_url(settings)}?service=mine", statement_timeout_s=9)
    with pool.autocommit() as connection, connection.cursor() as cursor:
        said = connection.info.dsn_parameters
        cursor.execute("SELECT current_setting('statement_timeout'), current_setting('application_name')")
        assert cursor.fetchone() == ("4s", "served")
    pool.close()
    assert (said["connect_timeout"], said["keepalives_idle"]) == ("8", "66")


def test_limits_of_the_server_are_kept_unless_ours_is_set_or_shorter(settings: Settings) -> None:
    url = postgres_url(settings)
    for_database(settings, "statement_timeout = '30s'")
    for_database(settings, "idle_in_transaction_session_timeout = '20s'")
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    assert list(shown(url, *names).values()) == ["30s", "20s"]
    assert list(shown(url, *names, statement_timeout_s=7, idle_in_transaction_s=10).values()) == ["7s", "10s"]
    for_database(settings, "idle_in_transaction_session_timeout = 0")
    assert shown(url, names[1]) == {names[1]: "1min"}


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_a_url_with_a_driver_s_name_is_taken(driver: str, settings: Settings) -> None:
    assert settings.mongo_url is not None
    url = postgres_url(settings).replace("postgresql://", f"postgresql+{driver}://")
    with_driver = Settings(
        postgres_url=url, mongo_url=settings.mongo_url.get_secret_value(), mongo_database=settings.mongo_database
    )
    with ragstore.open(with_driver) as rs:
        assert rs.collections() == []


def test_a_database_that_is_not_utf8_is_refused_everywhere(settings: Settings, test_servers: Servers) -> None:
    name = f"ragstore_test_{uuid4().hex[:12]}"
    create = f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
    _admin(test_servers, create)
    try:
        other = settings.model_copy(
            update={"postgres_url": _url(settings, urlsplit(postgres_url(settings))._replace(path=f"/{name}"))}
        )
        for refused in (migrations.plan, migrations.apply, migrations.status, ragstore.open):
            with pytest.raises(StoreSetupError, match="LATIN1") as raised:
                refused(other)
            assert "ENCODING 'UTF8'" in raised.value.hint
        status = servers.status(other)
        assert not status.postgres["ok"] and "LATIN1" in status.postgres["error"]
    finally:
        _admin(test_servers, f"DROP DATABASE {name} WITH (FORCE)")


def test_an_extension_that_is_too_old_is_refused_everywhere(settings: Settings) -> None:
    execute(settings, "UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    for refused in (migrations.plan, migrations.apply, migrations.status, ragstore.open):
        with pytest.raises(StoreSetupError, match=r"0\.7\.4") as raised:
            refused(settings)
        assert "ALTER EXTENSION vector UPDATE" in raised.value.hint
    status = servers.status(settings)
    assert not status.postgres["ok"] and "0.7.4" in status.postgres["error"]


def test_a_library_that_is_too_old_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "MIN_VECTOR", (99, 0))
    for refused in (migrations.plan, migrations.apply, migrations.status, ragstore.open):
        with pytest.raises(StoreSetupError, match="library of pgvector") as raised:
            refused(settings)
        assert "install pgvector" in raised.value.hint


def test_a_mongo_that_is_too_old_is_refused_everywhere(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo, "MIN_WIRE_VERSION", 999)
    for refused in (migrations.plan, migrations.apply, migrations.status):
        with pytest.raises(StoreSetupError, match=r"needs 5\.0") as raised:
            refused(settings)
        assert "upgrade" in raised.value.hint
    assert not servers.status(settings).mongo["ok"]


def test_the_extension_in_a_schema_that_is_on_no_path(settings: Settings, tmp_path: Path) -> None:
    execute(settings, "CREATE SCHEMA extensions; ALTER EXTENSION vector SET SCHEMA extensions")
    assert_a_text_is_kept(settings, tmp_path)
    for_database(settings, "search_path = myapp")
    with ragstore.open(settings) as rs:
        assert rs.query("Häuser", mode="vector")[0].text == GERMAN


def test_a_fresh_database_with_the_extension_elsewhere_is_migrated_and_used(settings: Settings, tmp_path: Path) -> None:
    execute(settings, "DROP SCHEMA ragstore CASCADE; DROP EXTENSION vector; CREATE SCHEMA extensions")
    execute(settings, "CREATE EXTENSION vector SCHEMA extensions")
    apply_postgres(postgres_url(settings))
    with closing(psycopg2.connect(postgres_url(settings))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ragstore.collection")
        assert cursor.fetchone() == (0,)


@contextmanager
def a_role(settings: Settings, options: str = "") -> Iterator[tuple[str, str]]:
    """A plain role: its name and its URL."""
    name = f"plain_{uuid4().hex[:8]}"
    execute(settings, f"CREATE ROLE {name} LOGIN PASSWORD '{name}' {options}")
    try:
        parts = urlsplit(postgres_url(settings))
        yield name, urlunsplit(parts._replace(netloc=f"{name}:{name}@{parts.hostname}:{parts.port}"))
    finally:
        execute(settings, f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_schema_that_the_dba_made_is_used_by_a_role_that_may_make_none(settings: Settings) -> None:
    execute(settings, "DROP SCHEMA ragstore CASCADE")
    with a_role(settings) as (name, url):
        execute(settings, f'REVOKE CREATE ON DATABASE "{name_of(settings)}" FROM PUBLIC')
        with pytest.raises(StoreSetupError, match="permission denied for database") as raised:
            apply_postgres(url)
        assert f'CREATE SCHEMA ragstore AUTHORIZATION "{name}"' in raised.value.hint
        execute(settings, f"CREATE SCHEMA ragstore AUTHORIZATION {name}")
        assert apply_postgres(url)
        assert apply_postgres(url) == []


def test_a_schema_of_another_program_is_left_alone(settings: Settings) -> None:
    execute(settings, "DROP SCHEMA ragstore CASCADE; CREATE SCHEMA ragstore; CREATE TABLE ragstore.document (a int)")
    with pytest.raises(StoreSetupError, match="another program") as raised:
        apply_postgres(postgres_url(settings))
    assert "document" in raised.value.message and "RAGSTORE_POSTGRES_URL" in raised.value.hint
    execute(settings, "CREATE TABLE ragstore.schema_version (version int)")
    with pytest.raises(StoreSetupError, match="another program"):
        apply_postgres(postgres_url(settings))
    found = execute(settings, "SELECT relname FROM pg_class WHERE relnamespace = 'ragstore'::regnamespace ORDER BY 1")
    assert found == [("document",), ("schema_version",)]


def test_a_full_server_is_waited_for_while_own_connections_come_back(settings: Settings) -> None:
    with a_role(settings, "CONNECTION LIMIT 2") as (_, url):
        pool = PostgresPool(url, size=8)

        def ask(_: int) -> bool:
            with pool.transaction() as cursor:
                cursor.execute("SELECT pg_sleep(0.02)")
                return True

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(ask, range(80)))
        pool.close()


def test_a_full_server_says_what_to_lower_or_raise(settings: Settings) -> None:
    with a_role(settings, "CONNECTION LIMIT 1") as (_, url):
        with closing(psycopg2.connect(url)):
            pool = PostgresPool(url, connect_timeout_s=1)
            with pytest.raises(StoreUnavailableError, match="too many connections") as raised, pool.autocommit():
                pass
        assert "RAGSTORE_POOL_SIZE" in raised.value.hint and "max_connections" in raised.value.hint
        with pool.autocommit():
            pass
        pool.close()


def test_a_server_that_recovers_is_waited_for(fleet_kind: test_servers_module.Kind) -> None:
    with a_fleet(fleet_kind) as fleet:
        pool = PostgresPool(fleet.postgres.url, connect_timeout_s=10)
        with ThreadPoolExecutor(1) as starting:
            for _ in range(2):
                with pool.transaction() as cursor:
                    cursor.execute("CREATE TABLE IF NOT EXISTS much (a text)")
                    cursor.execute("INSERT INTO much SELECT repeat('x', 100) || g FROM generate_series(1, 200000) g")
                fleet.postgres.kill()
                started = starting.submit(fleet.postgres.start)
                while not started.done():
                    try:
                        with pool.autocommit():
                            pass
                    except RagstoreError as error:
                        assert "the database system is" not in error.message, error.message
                started.result()
        pool.close()


def test_a_text_search_configuration_that_is_not_there_gets_a_list(settings: Settings) -> None:
    with ragstore.open(settings.model_copy(update={"text_search_config": "klingon"})) as rs:
        with pytest.raises(StoreSetupError, match="klingon") as raised:
            rs.create_collection("docs")
        assert "german" in raised.value.hint and "RAGSTORE_TEXT_SEARCH_CONFIG" in raised.value.hint
    assert settings.mongo_url is not None
    named = Settings(
        postgres_url=postgres_url(settings),
        mongo_url=settings.mongo_url.get_secret_value(),
        mongo_database=settings.mongo_database,
        text_search_config="pg_catalog.german",
    )
    with ragstore.open(named) as rs:
        rs.create_collection("docs")
        rs.query("Häuser", collection="docs", mode="keyword")


def test_a_role_that_only_reads_gets_the_right_advice(settings: Settings, tmp_path: Path) -> None:
    for_database(settings, "default_transaction_read_only = on")
    (tmp_path / "a.txt").write_text("The pump needs oil.")
    with ragstore.open(settings) as rs, pytest.raises(StoreUnavailableError) as raised:
        rs.ingest(str(tmp_path))
    assert "target_session_attrs" in raised.value.hint and "default_transaction_read_only" in raised.value.hint


def test_one_place_says_how_long_a_transaction_may_be_idle(settings: Settings) -> None:
    pool = postgres_pool(settings, reachable(settings))
    with pool.transaction() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("10s",)
    pool.close()


def _with(settings: Settings, query: str) -> Any:
    return _url(settings, urlsplit(postgres_url(settings))._replace(query=query))


def _url(settings: Settings, parts: Any) -> Any:
    return SecretStr(urlunsplit(parts))


def _admin(servers: Servers, statement: str) -> None:
    with closing(psycopg2.connect(servers.postgres_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
