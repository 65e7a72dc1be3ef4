from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ragstore.settings import Settings
from tests.support import servers
from tests.support.servers import Servers

Run = Callable[..., subprocess.CompletedProcess[str]]


def a_command_line(
    settings: Settings, variables: Mapping[str, str] | None = None, *, stdin: int = subprocess.DEVNULL
) -> Run:
    assert settings.postgres_url is not None
    assert settings.mongo_url is not None
    environment = {
        "RAGSTORE_POSTGRES_URL": settings.postgres_url.get_secret_value(),
        "RAGSTORE_MONGO_URL": settings.mongo_url.get_secret_value(),
        "RAGSTORE_MONGO_DATABASE": settings.mongo_database,
        "RAGSTORE_GRACE_S": "0",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ragstore", *arguments],
            stdin=stdin,
            capture_output=True,
            check=False,
            text=True,
            timeout=90,
            env=os.environ | environment | dict(variables or {}),
        )

    return run


def answered(settings: Settings, answer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run by somebody at a terminal, who types this."""
    person, terminal = os.openpty()
    try:
        os.write(person, answer.encode())
        return a_command_line(settings, stdin=terminal)(*arguments)
    finally:
        os.close(person)
        os.close(terminal)


@pytest.fixture
def cli(settings: Settings) -> Run:
    return a_command_line(settings)


def json_of(done: subprocess.CompletedProcess[str], exit_status: int = 0) -> dict[str, Any]:
    assert done.returncode == exit_status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_document_goes_in_is_found_is_listed_and_goes_out(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "pump.md").write_text("# Pump\n\n## Care\n\nClean the pump weekly with water.\n")
    (tmp_path / "door.md").write_text("# Door\n\nThe door opens inwards.\n")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")

    report = json_of(cli("ingest", ".", "--json"), exit_status=3)
    assert (report["added"], report["failed"], report["embedded"] + report["reused"]) == (2, 1, report["chunks"])

    (entry,) = json_of(cli("quarantine", "--json"))["quarantine"]
    assert entry["document_id"] == str(tmp_path / "broken.pdf")
    assert entry["reason"]
    assert json_of(cli("quarantine", "retry", "broken.pdf", "--json")) == {"released": 1, "missing": []}

    hits = json_of(cli("query", "how often to clean the pump", "-k", "1", "--json"))["hits"]
    assert [hit["document_id"] for hit in hits] == [str(tmp_path / "pump.md")]
    assert {"score", "text", "document_id", "source", "node_id", "metadata"} <= set(hits[0])
    filtered = json_of(cli("query", "pump", "--filter", "file_name=door.md", "--json"))["hits"]
    assert {hit["document_id"] for hit in filtered} == {str(tmp_path / "door.md")}

    answer = cli("ask", "how often?", "-k", "1")
    assert "RAGSTORE_LLM" in answer.stderr
    assert str(tmp_path) in answer.stdout

    documents = json_of(cli("documents", "--json"))["documents"]
    assert [document["document_id"] for document in documents] == [str(tmp_path / "door.md"), str(tmp_path / "pump.md")]

    assert json_of(cli("delete", "pump.md", "nowhere.md", "--json"), exit_status=3) == {
        "deleted": 1,
        "missing": ["nowhere.md"],
    }
    events = json_of(cli("history", "pump.md", "--json"))["events"]
    assert [event["action"] for event in events] == ["added", "deleted"]
    assert [event["revision"] for event in events] == sorted(event["revision"] for event in events)
    assert json_of(cli("delete", "pump.md", "--json"), exit_status=6)["error"]["code"] == "document.not_found"


def test_a_collection_is_dropped_when_somebody_says_yes(cli: Run, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "door.md").write_text("# Door\n\nThe door opens inwards.\n")
    cli("ingest", "door.md", "-c", "doors")
    for arguments in (("drop", "doors"), ("drop", "-c", "doors")):
        refused = json_of(cli(*arguments, "--json"), exit_status=2)["error"]
        assert refused["code"] == "usage"
        assert "--yes" in refused["hint"]
    assert json_of(cli("drop", "nowhere", "--json"), exit_status=6)["error"]["code"] == "collection.not_found"
    for answer, exit_status in (("\n", 1), ("no\n", 1), ("y\n", 0)):
        asked = answered(settings, answer, "drop", "doors")
        assert asked.returncode == exit_status, asked.stderr
        assert asked.stderr.startswith("collection doors has 1 document;")
    assert asked.stdout == "doors dropped, with 1 document\n"
    assert json_of(cli("drop", "doors", "--yes", "--json"), exit_status=6)["error"]["code"] == "collection.not_found"
    cli("ingest", "door.md", "-c", "doors")
    assert json_of(cli("drop", "doors", "--yes", "--json")) == {"collection": "doors", "documents": 1}
    assert json_of(cli("verify", "--json"))["ok"]


def test_every_inspecting_verb_answers_for_people_too(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "door.md").write_text("# Door\n\nThe door opens inwards.\n")
    assert cli("ingest", "door.md").stdout.startswith("1 added; 1 chunk (1 embedded, 0 reused) in ")
    for arguments in (("documents",), ("query", "door"), ("history", "door.md"), ("status",), ("migrate", "status")):
        done = cli(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout
    assert cli("quarantine").stdout == "nothing is in quarantine\n"


def test_status_covers_passwords_until_it_is_asked_to_show_them(cli: Run, settings: Settings) -> None:
    assert settings.postgres_url is not None
    url = settings.postgres_url.get_secret_value()
    password = url.split("://")[1].split("@")[0].split(":")[1]
    found = json_of(cli("status", "--json"))
    assert [found[part]["ok"] for part in ("postgres", "mongo", "schema")] == [True, True, True]
    assert password not in json.dumps(found)
    assert json_of(cli("status", "--json", "--show-secrets"))["postgres"]["url"] == url


def test_a_collection_that_is_not_there_is_told_apart_from_a_wrong_call(cli: Run) -> None:
    for arguments in (("documents",), ("query", "x"), ("quarantine",)):
        error = json_of(cli(*arguments, "-c", "nowhere", "--json"), exit_status=6)["error"]
        assert error["code"] == "collection.not_found"


def test_databases_without_a_schema_are_refused_until_they_are_migrated(
    test_servers: Servers, settings: Settings
) -> None:
    with servers.cloned_database(test_servers, None) as url:
        changes = {"RAGSTORE_POSTGRES_URL": url, "RAGSTORE_MONGO_DATABASE": f"{settings.mongo_database}_empty"}
        cli = a_command_line(settings, changes)
        refused = json_of(cli("documents", "--json"), exit_status=4)["error"]
        assert refused["code"] == "schema.version"
        assert "ragstore migrate" in refused["hint"]
        assert cli("migrate", "status").returncode == 1
        planned = json_of(cli("migrate", "plan", "--json"))["planned"]
        assert {step["store"] for step in planned} == {"postgres", "mongo"}
        script = cli("migrate", "plan", "--sql").stdout
        assert "CREATE TABLE ragstore.document" in script
        assert json_of(cli("migrate", "plan", "--sql", "--json")) == {"planned": planned, "sql": script}
        assert json_of(cli("migrate", "--json"))["applied"] == planned
        assert json_of(cli("migrate", "status", "--json"))["ok"]
        assert json_of(cli("migrate", "plan", "--json"))["planned"] == []


def test_databases_that_do_not_answer_are_told_in_one_line_each(settings: Settings) -> None:
    nowhere = {
        "RAGSTORE_POSTGRES_URL": "postgresql://me:hunter2@127.0.0.1:1/x",
        "RAGSTORE_MONGO_URL": "mongodb://me:hunter2@127.0.0.1:1/",
        "RAGSTORE_CONNECT_TIMEOUT_S": "1",
    }
    cli = a_command_line(settings, nowhere)
    done = cli("documents")
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    for arguments in (("status",), ("status", "--json"), ("up",)):
        done = cli(*arguments)
        assert done.returncode == 1
        assert "hunter2" not in done.stdout + done.stderr
