"""Databases that cannot be used as they are: each is one clear line, with the command or option that mends it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg2
import pytest
from pymongo import MongoClient

from ragstore.settings import Settings
from tests.support import servers
from tests.support.command import CommandLine, Done
from tests.support.containers import PostgresContainer, StandaloneMongoContainer
from tests.support.fleet import a_process_home, removed
from tests.support.ready import until_mongo_answers
from tests.support.servers import Kind, Servers

PASSWORD = "hunter2swordfish"
VERBS_THAT_READ = (("query", "pump"), ("documents",))
VERBS_THAT_WRITE = (("ingest", "."), ("delete", "x"))


@pytest.fixture
def ragstore(settings: Settings, tmp_path: Path) -> Iterator[CommandLine]:
    """On servers of one's own, whose databases are migrated and hold one document."""
    assert settings.postgres_url is not None and settings.mongo_url is not None
    options = {
        "postgres_url": settings.postgres_url.get_secret_value(),
        "mongo_url": settings.mongo_url.get_secret_value(),
        "mongo_database": settings.mongo_database,
        "connect_timeout_s": 1,
    }
    passwords = [urlsplit(str(options[name])).password for name in ("postgres_url", "mongo_url")]
    (tmp_path / "pump.md").write_text("The pump needs oil.\n")
    yield CommandLine(tmp_path, options, secrets=(PASSWORD, *filter(None, passwords)))
    with MongoClient[dict[str, Any]](str(options["mongo_url"])) as client:
        for name in client.list_database_names():
            if name.startswith(f"{settings.mongo_database}_"):
                client.drop_database(name)


def changed(url: object, *, password: str | None = None, port: int | None = None, path: str | None = None) -> str:
    parts = urlsplit(str(url))
    user, host = parts.username or "me", parts.hostname
    netloc = f"{user}:{password or parts.password}@{host}:{port or parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=parts.path if path is None else path))


def a_closed_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


def assert_told(done: Done, *words: str) -> None:
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert len(done.error) < 250, done.error
    for word in words:
        assert word in done.error + " " + done.hint, done.stderr


def test_a_wrong_password_of_postgres(ragstore: CommandLine) -> None:
    wrong = {"postgres_url": changed(ragstore.options["postgres_url"], password=PASSWORD)}
    for verb in (*VERBS_THAT_READ, *VERBS_THAT_WRITE, ("migrate",)):
        done = ragstore(*verb, status=1, **wrong)
        assert_told(done, "password authentication failed", "RAGSTORE_POSTGRES_URL", "ragstore status --settings")
    status = ragstore("status", "--json", status=1, **wrong).json
    assert (status["postgres"]["ok"], status["mongo"]["ok"]) == (False, True)
    assert "password authentication failed" in status["postgres"]["error"]


def test_a_wrong_password_of_mongo(ragstore: CommandLine) -> None:
    ragstore("ingest", ".")
    wrong = {"mongo_url": changed(ragstore.options["mongo_url"], password=PASSWORD)}
    for verb in (*VERBS_THAT_WRITE, ("migrate",)):
        done = ragstore(*verb, status=1, **wrong)
        assert_told(done, "MongoDB: Authentication failed", "RAGSTORE_MONGO_URL", "ragstore status --settings")
    status = ragstore("status", "--json", status=1, **wrong).json
    assert (status["postgres"]["ok"], status["mongo"]["ok"]) == (True, False)


def test_a_postgres_that_is_not_there(ragstore: CommandLine) -> None:
    nowhere: dict[str, Any] = {"postgres_url": changed(ragstore.options["postgres_url"], port=a_closed_port())}
    for verb in (*VERBS_THAT_READ, *VERBS_THAT_WRITE):
        assert_told(ragstore(*verb, status=1, **nowhere), "PostgreSQL: ", "refused", "ragstore status")
    up = ragstore("up", status=1, **nowhere)
    assert "postgres does not answer" in up.stderr


def test_a_mongo_that_is_not_there(ragstore: CommandLine) -> None:
    ragstore("ingest", ".")
    nowhere: dict[str, Any] = {"mongo_url": changed(ragstore.options["mongo_url"], port=a_closed_port())}
    for verb in VERBS_THAT_WRITE:
        assert_told(ragstore(*verb, status=1, **nowhere), "MongoDB: ", "refused", "ragstore status")


def test_questions_are_answered_while_mongo_is_not_there(ragstore: CommandLine) -> None:
    ragstore("ingest", ".")
    nowhere: dict[str, Any] = {"mongo_url": changed(ragstore.options["mongo_url"], port=a_closed_port())}
    assert "needs oil" in ragstore("query", "pump", **nowhere).stdout


def test_a_host_name_that_nobody_knows(ragstore: CommandLine) -> None:
    unknown = {"postgres_url": "postgresql://me:hunter2swordfish@no-such-host.invalid/ragstore"}
    assert_told(ragstore("query", "pump", status=1, **unknown), "no-such-host.invalid", "ragstore status")


def test_a_host_that_takes_the_call_and_says_nothing(ragstore: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        postgres = {"postgres_url": changed(ragstore.options["postgres_url"], port=port)}
        assert_told(ragstore("query", "pump", status=1, **postgres), "PostgreSQL: ", "timeout", "ragstore status")
        mongo = {"mongo_url": changed(ragstore.options["mongo_url"], port=port)}
        told = ragstore("ingest", ".", status=1, **mongo)
        assert_told(told, "MongoDB: ", "ragstore status")
        assert "timed out" in told.error or "answered in time" in told.error


def test_a_database_that_does_not_exist(ragstore: CommandLine) -> None:
    wrong = {"postgres_url": changed(ragstore.options["postgres_url"], path="/no_such_database")}
    for verb in (*VERBS_THAT_READ, ("migrate",)):
        assert_told(ragstore(*verb, status=1, **wrong), '"no_such_database" does not exist', "RAGSTORE_POSTGRES_URL")


def test_a_url_that_libpq_does_not_understand(ragstore: CommandLine) -> None:
    wrong = {"postgres_url": f"{ragstore.options['postgres_url']}?passwort={PASSWORD}"}
    assert_told(ragstore("query", "pump", status=1, **wrong), '"passwort"', "RAGSTORE_POSTGRES_URL")


def test_a_database_without_schema_is_refused_until_it_is_migrated(
    ragstore: CommandLine, test_servers: Servers
) -> None:
    with servers.cloned_database(test_servers, None) as empty:
        fresh: dict[str, Any] = {"postgres_url": empty, "mongo_database": f"{ragstore.options['mongo_database']}_fresh"}
        for verb in (*VERBS_THAT_READ, *VERBS_THAT_WRITE):
            assert_told(ragstore(*verb, status=4, **fresh), "no schema", "ragstore migrate apply")
        ragstore("migrate", **fresh)
        assert "1 added" in ragstore("ingest", ".", **fresh).stdout


def test_a_schema_that_was_dropped_is_refused(ragstore: CommandLine) -> None:
    ragstore("ingest", ".")
    execute(ragstore.options["postgres_url"], "DROP SCHEMA ragstore CASCADE")
    for verb in (*VERBS_THAT_READ, *VERBS_THAT_WRITE):
        assert_told(ragstore(*verb, status=4), "no schema", "ragstore migrate apply")


@pytest.mark.parametrize(("version", "advice"), [("0000", "ragstore migrate apply"), ("9999", "install")])
def test_a_schema_of_another_version_is_refused(ragstore: CommandLine, version: str, advice: str) -> None:
    execute(ragstore.options["postgres_url"], f"UPDATE ragstore.schema_version SET version_num = '{version}'")
    for verb in (*VERBS_THAT_READ, *VERBS_THAT_WRITE):
        assert_told(ragstore(*verb, status=4), version, advice)


def test_two_databases_that_do_not_belong_together_are_refused(ragstore: CommandLine, test_servers: Servers) -> None:
    ragstore("ingest", ".")
    other = {"mongo_database": f"{ragstore.options['mongo_database']}_other"}
    for verb in VERBS_THAT_WRITE:
        assert_told(ragstore(*verb, status=4, **other), "empty", "RAGSTORE_MONGO_DATABASE")
    with servers.cloned_database(test_servers, None) as url:
        ragstore("migrate", postgres_url=url)
        refused = ragstore("ingest", ".", status=4, postgres_url=url)
        assert_told(refused, "another PostgreSQL", "belong together")


def test_a_role_that_may_not_make_the_extension_is_told_who_may(ragstore: CommandLine, test_servers: Servers) -> None:
    name = f"plain_{uuid4().hex[:8]}"
    if execute(test_servers.postgres_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") != [(True,)]:
        pytest.skip("takes a superuser to make a role")
    with servers.cloned_database(test_servers, None) as url:
        database = urlsplit(url).path.lstrip("/")
        execute(url, f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'", f'ALTER DATABASE "{database}" OWNER TO {name}')
        parts = urlsplit(url)
        plain = urlunsplit(parts._replace(netloc=f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}"))
        own: dict[str, Any] = {"postgres_url": plain, "mongo_database": f"{ragstore.options['mongo_database']}_plain"}
        try:
            refused = ragstore("migrate", status=1, **own)
            assert_told(refused, 'create extension "vector"', "superuser", "CREATE EXTENSION vector", "migrate apply")
            execute(url, "CREATE EXTENSION vector")
            ragstore("migrate", **own)
            assert "1 added" in ragstore("ingest", ".", **own).stdout
        finally:
            execute(url, f"REASSIGN OWNED BY {name} TO CURRENT_USER", f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_postgres_without_pgvector_is_told_what_to_install(ragstore: CommandLine, no_pgvector: str) -> None:
    own: dict[str, Any] = {
        "postgres_url": no_pgvector,
        "mongo_database": f"{ragstore.options['mongo_database']}_no_pgvector",
    }
    refused = ragstore("migrate", status=1, **own)
    assert_told(refused, "no extension 'vector'", "install pgvector 0.8", "ragstore migrate apply")
    assert execute(no_pgvector, "SELECT count(*) FROM pg_namespace WHERE nspname = 'ragstore'") == [(0,)]
    for verb in (*VERBS_THAT_READ, *VERBS_THAT_WRITE):
        assert_told(ragstore(*verb, status=4, **own), "no schema", "ragstore migrate apply")


def test_a_mongo_that_is_no_replica_set_is_refused_before_anything_is_written(
    ragstore: CommandLine, test_servers: Servers, standalone_mongo: str
) -> None:
    with servers.cloned_database(test_servers, None) as url:
        alone = {"postgres_url": url, "mongo_url": standalone_mongo}
        for verb in (("migrate",), ("migrate", "plan")):
            assert_told(ragstore(*verb, status=1, **alone), "replica set", "rs.initiate()")
        assert execute(url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'ragstore'") == [(0,)]
        up = ragstore("up", status=1, **alone)
        assert "replica set" in up.stderr
    ragstore("ingest", ".")
    alone = {"mongo_url": standalone_mongo}
    for verb in VERBS_THAT_WRITE:
        assert_told(ragstore(*verb, status=1, **alone), "replica set", "rs.initiate()")
    named = {"mongo_url": f"{standalone_mongo}?replicaSet=rs0"}
    assert_told(ragstore("ingest", ".", status=1, **named), "replica set", "rs.initiate()")


@pytest.fixture(scope="module")
def no_pgvector(fleet_kind: Kind) -> Iterator[str]:
    """URL of a PostgreSQL on which pgvector is not installed."""
    if fleet_kind != "containers":
        pytest.skip("takes a container: what is installed here is not to be removed")
    server = PostgresContainer(pgvector=False)
    with removed(server):
        server.create()
        execute(server.url, "CREATE DATABASE bare")
        yield changed(server.url, path="/bare")


@pytest.fixture(scope="module")
def standalone_mongo(fleet_kind: Kind) -> Iterator[str]:
    """URL of a mongod without ``--replSet``."""
    if fleet_kind == "containers":
        server = StandaloneMongoContainer()
        with removed(server):
            server.create()
            yield server.url
        return
    with a_process_home() as (home, programs, account):
        account.own_folder(home.path / "data")
        port = a_closed_port()
        arguments = [
            "--dbpath",
            str(home.path / "data"),
            "--port",
            str(port),
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
        ]
        with subprocess.Popen(
            [programs.mongod, *arguments], stdout=subprocess.DEVNULL, **account.popen_options
        ) as process:
            try:
                until_mongo_answers(f"127.0.0.1:{port}", as_primary=False)
                yield f"mongodb://127.0.0.1:{port}/"
            finally:
                process.kill()


def execute(url: object, *statements: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(str(url))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
