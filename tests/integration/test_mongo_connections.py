"""MongoDB as people have it: a set that was never made, a wrong name in the URL, TLS on one side, options of the URL."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from pymongo import MongoClient

import ragstore
from ragstore.errors import StoreError, StoreSetupError, StoreUnavailableError
from ragstore.mongo.client import check_server, connect, database
from ragstore.mongo.nodes import NodeStore
from ragstore.settings import Settings
from tests.support.fleet import a_process_home
from tests.support.ready import until_mongo_answers
from tests.support.servers import Servers


@contextmanager
def a_mongod(*options: str) -> Iterator[str]:
    """A mongod of its own, as a process; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with a_process_home() as (home, programs, account):
        account.own_folder(home.path / "data")
        arguments = ["--dbpath", str(home.path / "data"), "--port", str(port), "--bind_ip", "127.0.0.1"]
        command = [str(programs.mongod), *arguments, "--nounixsocket", *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, **account.popen_options) as process:
            try:
                until_mongo_answers(f"127.0.0.1:{port}", as_primary=False)
                yield f"127.0.0.1:{port}"
            finally:
                process.kill()


def refusal(url: str) -> StoreError:
    client = connect(url, timeout_s=1)
    try:
        with pytest.raises(StoreError) as raised:
            check_server(client, url)
    finally:
        client.close()
    return raised.value


@pytest.fixture(scope="module")
def never_initiated() -> Iterator[str]:
    with a_mongod("--replSet", "rs0") as address:
        yield address


@pytest.fixture(scope="module")
def alone() -> Iterator[str]:
    with a_mongod() as address:
        yield address


@pytest.fixture(scope="module")
def with_accounts() -> Iterator[str]:
    """The URL, as its administrator."""
    with a_mongod("--auth") as address:
        with MongoClient[dict[str, Any]](f"mongodb://{address}/?directConnection=true") as client:
            client.admin.command({"createUser": "boss", "pwd": "boss", "roles": ["root"]})
        yield f"mongodb://boss:boss@{address}/?directConnection=true&authSource=admin"


@pytest.mark.parametrize("query", ["", "?replicaSet=rs0"])
def test_a_set_that_was_never_made_says_how_to_make_it(never_initiated: str, query: str) -> None:
    error = refusal(f"mongodb://{never_initiated}/{query}")
    assert isinstance(error, StoreSetupError)
    assert "never made" in error.message and "rs.initiate()" in error.hint


@pytest.mark.parametrize("query", ["", "?replicaSet=rs0", "?directConnection=true"])
def test_a_server_that_stands_alone_says_what_to_start_it_with(alone: str, query: str) -> None:
    error = refusal(f"mongodb://{alone}/{query}")
    assert isinstance(error, StoreSetupError)
    assert "--replSet" in error.hint and "rs.initiate()" in error.hint


def test_tls_for_a_server_without_it_is_a_matter_of_setup(alone: str) -> None:
    error = refusal(f"mongodb://{alone}/?tls=true")
    assert isinstance(error, StoreSetupError), error
    assert "tls=true only where the server has TLS" in error.hint


HANDSHAKE = 0x16
REFUSED_IN_TLS = bytes.fromhex("15 0303 0002 0228")
"""An alert: handshake failure."""


@contextmanager
def a_port_that_hangs_up(answer: bytes | None) -> Iterator[str]:
    """On whoever speaks without TLS, as a server that dies or wants TLS does; a handshake gets an answer, or none."""
    held: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                taken, _ = listening.accept()
                first = taken.recv(65_536)
                if first and first[0] == HANDSHAKE:
                    held.append(taken)
                    if answer is not None:
                        taken.sendall(answer)
                else:
                    taken.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for taken in held:
        taken.close()


def test_a_server_that_wants_tls_is_a_matter_of_setup() -> None:
    with a_port_that_hangs_up(REFUSED_IN_TLS) as address:
        error = refusal(f"mongodb://{address}/")
    assert isinstance(error, StoreSetupError)
    assert "takes no connection without TLS" in error.message


def test_a_server_that_hangs_up_and_then_is_silent_is_waited_for() -> None:
    with a_port_that_hangs_up(None) as address:
        error = refusal(f"mongodb://{address}/")
    assert isinstance(error, StoreUnavailableError), error


def test_the_wrong_name_of_a_set_is_told_with_the_right_one(test_servers: Servers) -> None:
    with MongoClient[dict[str, Any]](test_servers.mongo_url) as client:
        name = client.admin.command("hello")["setName"]
    parts = urlsplit(test_servers.mongo_url)
    error = refusal(urlunsplit(parts._replace(query="replicaSet=wrong")))
    assert isinstance(error, StoreSetupError)
    assert "'wrong'" in error.message and repr(name) in error.message and f"replicaSet={name}" in error.hint


def test_a_user_of_admin_on_another_database_is_told_of_auth_source(with_accounts: str) -> None:
    error = refusal(with_accounts.replace("&authSource=admin", "").replace("/?", "/spec?"))
    assert isinstance(error, StoreSetupError)
    assert "authSource=admin" in error.hint


def test_a_user_without_rights_is_told_which(with_accounts: str) -> None:
    with MongoClient[dict[str, Any]](with_accounts) as client:
        client.admin.command({"createUser": "reader", "pwd": "reader", "roles": []})
    own = connect(with_accounts.replace("boss:boss", "reader:reader"))
    try:
        with pytest.raises(StoreSetupError) as raised:
            NodeStore(database(own, "elsewhere")).count_nodes("docs")
        assert "readWrite" in raised.value.hint
    finally:
        own.close()


def test_a_host_that_nobody_knows_is_told_as_such() -> None:
    error = refusal("mongodb://no-such-host.invalid/")
    assert isinstance(error, StoreUnavailableError)
    assert "RAGSTORE_MONGO_URL" in error.hint and "disk" not in error.hint


def test_what_the_url_says_wins() -> None:
    url = (
        "mongodb://h/?retryWrites=false&retryReads=false&serverSelectionTimeoutMS=900&appName=my&maxPoolSize=3"
        "&socketTimeoutMS=1234&connectTimeoutMS=777"
    )
    with connect(url) as client:
        options = client.options
        assert (options.retry_writes, options.retry_reads) == (False, False)
        assert options.server_selection_timeout == 0.9
        pool = options.pool_options
        assert (pool.max_pool_size, pool.appname, pool.socket_timeout, pool.connect_timeout) == (3, "my", 1.234, 0.777)
    with connect("mongodb://h/", timeout_s=4, pool_size=5) as client:
        pool = client.options.pool_options
        assert (pool.max_pool_size, pool.appname, pool.socket_timeout) == (5, "ragstore", 60)
        assert client.options.server_selection_timeout == 4
        assert client.options.retry_writes


def test_all_works_without_retryable_writes_and_with_reads_from_secondaries(settings: Settings, tmp_path: Path) -> None:
    assert settings.mongo_url is not None
    url = settings.mongo_url.get_secret_value()
    mark = "&" if "?" in url else "?"
    other = f"{url}{mark}retryWrites=false&readPreference=secondaryPreferred"
    (tmp_path / "a.txt").write_text("The pump needs oil.")
    with ragstore.open(settings.model_copy(update={"mongo_url": type(settings.mongo_url)(other)})) as rs:
        assert rs.ingest(str(tmp_path)).added == 1
        assert rs.verify(deep=True).ok
        rs.drop_collection("default")
