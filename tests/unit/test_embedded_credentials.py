from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ragstore.embedded import credentials
from ragstore.embedded.credentials import Credentials, CredentialStore
from ragstore.embedded.home import Home
from ragstore.embedded.ports import a_free_port, is_free, is_open
from ragstore.errors import EmbeddedServerError


def a_home(path: Path) -> Home:
    home = Home.at(path)
    home.make()
    return home


def test_urls_name_the_loopback_address_and_the_replica_set() -> None:
    urls = Credentials("pw1", 20001, "pw2", 20002).urls
    assert urls.postgres_url == "postgresql://ragstore:pw1@127.0.0.1:20001/ragstore"
    assert urls.mongo_url == "mongodb://ragstore:pw2@127.0.0.1:20002/?replicaSet=rs0&authSource=admin"


def test_passwords_need_no_quoting_in_a_url(tmp_path: Path) -> None:
    made = credentials.load_or_create(a_home(tmp_path))
    assert urlsplit(made.urls.postgres_url).password == made.postgres_password
    assert urlsplit(made.urls.mongo_url).password == made.mongo_password
    assert len(made.postgres_password) == 32
    assert made.postgres_password != made.mongo_password


def test_credentials_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    home = a_home(tmp_path)
    made = credentials.load_or_create(home)
    assert credentials.load_or_create(home) == made == credentials.load(home)
    assert home.credentials.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [None, "", "{", "[]"], ids=["missing", "empty", "half", "list"])
def test_data_without_its_credentials_is_refused(tmp_path: Path, text: str | None) -> None:
    home = a_home(tmp_path)
    home.data("postgres").mkdir(parents=True)
    if text is not None:
        home.credentials.write_text(text)
    with pytest.raises(EmbeddedServerError, match=r"secrets\.json is missing or damaged"):
        credentials.load_or_create(home)


def test_credentials_with_other_fields_are_refused(tmp_path: Path) -> None:
    home = a_home(tmp_path)
    home.credentials.write_text('{"password": "x"}')
    with pytest.raises(EmbeddedServerError, match="does not hold"):
        credentials.load(home)


def test_a_moved_port_is_remembered_and_the_passwords_stay(tmp_path: Path) -> None:
    home = a_home(tmp_path)
    store = CredentialStore(home)
    before = store.current
    port = store.move_port("mongo")
    assert port not in (before.mongo_port, before.postgres_port)
    assert store.current == before.with_port("mongo", port) == credentials.load(home)


def test_a_free_port_is_outside_the_range_of_outgoing_connections() -> None:
    port = a_free_port()
    assert 20_000 <= port < 32_000
    assert is_free(port)
    assert not is_open(port)


def test_a_port_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not is_free(port)
        assert is_open(port)
    assert is_free(port)


def test_a_port_somebody_listens_on_at_every_address_is_not_free() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        assert not is_free(listener.getsockname()[1])
