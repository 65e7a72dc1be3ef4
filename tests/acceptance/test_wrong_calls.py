"""What a person sees who types something wrong: one line of error, one of advice, the right exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import CommandLine, Done
from tests.support.stores import Stores

INJECTIONS = (
    "tenant=x' OR '1'='1",
    "tenant' OR '1'='1=x",
    "tenant=x'; DROP TABLE ragstore.document; --",
    'tenant="; DROP SCHEMA ragstore CASCADE; --"',
    "file_type=md' OR TRUE --",
    "tenant:in=a,b') OR ('1'='1",
    "tenant=$$ || pg_sleep(10) || $$",
    "tenant=%s %(x)s :y {table}",
)


def assert_told(done: Done, *words: str) -> None:
    assert done.stdout == ""
    for word in words:
        assert word in done.error + done.hint, done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("query", "x", "--nonsense"), ("--nonsense", "ragstore query --help")),
        (("ingset", "x"), ("ingset", "ragstore --help")),
        (("query",), ("TEXT", "ragstore query --help")),
        (("query", "  "), ("empty", "ragstore query --help")),
        (("query", "x", "-k", "0"), ("-k", "ragstore query --help")),
        (("query", "x", "-k", "many"), ("-k", "integer", "ragstore query --help")),
        (("query", "x", "--mode", "fast"), ("fast", "hybrid", "ragstore query --help")),
        (("query", "x", "--mmr", "2"), ("--mmr", "ragstore query --help")),
        (("ingest",), ("PATH", "ragstore ingest --help")),
        (("delete",), ("DOCUMENT", "ragstore delete --help")),
        (("quarantine", "burn"), ("burn", "ragstore quarantine --help")),
        (("migrate", "back"), ("back", "ragstore migrate --help")),
        (("migrate", "apply", "--sql"), ("apply shows no SQL", "ragstore migrate plan --sql")),
    ],
)
def test_a_call_that_cannot_be_understood_starts_nothing(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    ragstore = CommandLine(tmp_path, {"home": tmp_path / "home"})
    assert_told(ragstore(*arguments, status=2), *words)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("filter_text", "word"),
    [("tenant", "operator"), ("=x", "=x"), ('{"key": ', "JSON"), ('{"key": "a", "op": "~", "value": 1}', "~")],
)
def test_a_filter_that_cannot_be_understood_starts_nothing(filter_text: str, word: str, tmp_path: Path) -> None:
    ragstore = CommandLine(tmp_path, {"home": tmp_path / "home"})
    assert_told(ragstore("query", "x", "--filter", filter_text, status=2), word)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk_size": "abc"}, ("RAGSTORE_CHUNK_SIZE", "'abc'", "32 to 8192", "the environment")),
        ({"chunk_size": "7"}, ("RAGSTORE_CHUNK_SIZE", "'7'", "32 to 8192")),
        ({"chunksize": "100"}, ("RAGSTORE_CHUNKSIZE", "did you mean RAGSTORE_CHUNK_SIZE?")),
        ({"chunk_size": "100", "chunk_overlap": "100"}, ("RAGSTORE_CHUNK_OVERLAP", "smaller than chunk_size")),
        ({"postgres_url": "postgresql://h/d"}, ("RAGSTORE_MONGO_URL", "both", "or neither")),
        ({"postgres_url": "mysql://h/d", "mongo_url": "mongodb://h"}, ("RAGSTORE_POSTGRES_URL", "postgresql://")),
        ({"collection": "My Docs"}, ("RAGSTORE_COLLECTION", "'My Docs'")),
        ({"log_level": "loud"}, ("RAGSTORE_LOG_LEVEL", "'loud'", "'warning'")),
        ({"config": "/nowhere/ragstore.toml"}, ("RAGSTORE_CONFIG", "/nowhere/ragstore.toml")),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_its_place(
    options: dict[str, str], words: tuple[str, ...], tmp_path: Path
) -> None:
    ragstore = CommandLine(tmp_path, {"home": tmp_path / "home"})
    assert_told(ragstore("ingest", ".", status=2, **options), *words)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("password", ["hunter2/x", "hunter2@x", "hunter2#x", "hunter2?x", "hunter2%x"])
def test_a_password_that_is_not_encoded_is_refused_and_no_part_of_it_shown(password: str, tmp_path: Path) -> None:
    urls = {"postgres_url": f"postgresql://me:{password}@127.0.0.1:1/d", "mongo_url": "mongodb://127.0.0.1:1/"}
    ragstore = CommandLine(tmp_path, urls, secrets=("hunter2", "2x"))
    for verb in (("status",), ("up",), ("ingest", ".")):
        assert_told(ragstore(*verb, status=2), "RAGSTORE_POSTGRES_URL", "percent-encoded")


def test_a_path_that_is_not_there_is_named(command: CommandLine, manuals: Path, collection: str) -> None:
    assert_told(command("ingest", "manuals", "manaul", status=6), "'manaul'", "does not exist")
    assert_told(command("documents", status=6), collection, "ragstore ingest PATH")  # nothing was begun


def test_a_collection_that_is_not_there_is_named_with_the_way_to_make_it(command: CommandLine) -> None:
    for arguments in (("query", "x"), ("ask", "x"), ("documents",), ("history", "x"), ("delete", "x"), ("quarantine",)):
        assert_told(command(*arguments, "-c", "nowhere", status=6), "'nowhere'", "ragstore ingest PATH -c nowhere")
    assert_told(command("ingest", ".", "-c", "No Where", status=2), "'No Where'")


def test_a_document_that_is_not_there_is_named(command: CommandLine, manuals: Path) -> None:
    command("ingest", "manuals")
    assert_told(command("history", "manuals/nothing.txt", status=6), "manuals/nothing.txt", "ragstore documents")
    assert_told(command("delete", "manuals/nothing.txt", status=6), "manuals/nothing.txt", "ragstore documents")


def test_a_filter_is_never_sql(command: CommandLine, manuals: Path, collection: str, stores: Stores) -> None:
    command("ingest", "manuals")
    n_nodes = stores.assert_agree(collection)
    tables = stores.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'ragstore'")
    for filter_text in INJECTIONS:
        assert command("query", "pump", "--filter", filter_text, "--json").json["hits"] == [], filter_text
    assert stores.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'ragstore'") == tables
    assert stores.assert_agree(collection) == n_nodes
    assert len(command("query", "pump", "--filter", "file_name!=x' OR '1'='1", "--json").json["hits"]) == n_nodes


def test_an_error_is_a_json_document_for_programs(command: CommandLine) -> None:
    done = command("query", "x", "-c", "nowhere", "--json", status=6)
    error = json.loads(done.stdout)["error"]
    assert error == {"code": "collection.not_found", "message": done.error, "hint": done.hint, "retry": "never"}


def test_another_model_than_the_collections_is_refused(command: CommandLine, manuals: Path, collection: str) -> None:
    command("ingest", "manuals")
    for verb in (("ingest", "manuals"), ("query", "x"), ("documents",)):
        refused = command(*verb, status=4, model="minilm")
        assert_told(refused, collection, "wordllama", "minilm", "RAGSTORE_MODEL")
