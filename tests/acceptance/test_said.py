"""What the command line says of what it does: names, reasons, exit statuses; and lines that fit a terminal."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pymongo
import pytest

from tests.support.command import CommandLine
from tests.support.stores import Stores
from tests.unit.test_commands_exist import VALUES, code_of, commands_in

README = Path(__file__).parents[2] / "README.md"


def test_the_first_command_says_that_servers_are_started(own_home: Path, tmp_path: Path) -> None:
    ragstore = CommandLine(tmp_path, {"home": own_home})
    assert ragstore("documents", status=6).stderr.startswith("starting PostgreSQL and MongoDB …\nerror: ")
    assert "starting" not in ragstore("documents", status=6).stderr
    ragstore("down")
    assert ragstore("down", "-q").stdout == "nothing was running\n"
    assert "starting" not in ragstore("up", "-q").stderr


def test_an_ingest_names_what_it_made_and_passed_over(command: CommandLine, manuals: Path, collection: str) -> None:
    (manuals / "photo.png").write_bytes(b"x")
    (manuals / "noext").write_bytes(b"x")
    would = command("sync", "manuals", "--dry-run").stderr
    assert f"collection {collection} would be made: model wordllama, 256 dimensions" in would
    done = command("ingest", "manuals")
    assert done.stdout.startswith("4 added, 2 passed over (without a type 1, .png 1); ")
    assert f"collection {collection} made: model wordllama, 256 dimensions" in done.stderr
    assert f"passed over: 1 (type .png)\n  {manuals / 'photo.png'}\n" in done.stderr
    assert f"passed over: 1 (no type)\n  {manuals / 'noext'}\n" in done.stderr
    quiet = command("ingest", "manuals", "-q")
    assert (quiet.stdout.split(" in ")[0], quiet.stderr) == (
        "4 unchanged, 2 passed over (without a type 1, .png 1)",
        "",
    )
    document = command("ingest", "manuals", "--json").json
    assert document["passed_over"]["type .png"] == {"count": 1, "examples": [str(manuals / "photo.png")]}


def test_a_sync_names_what_it_deletes(command: CommandLine, manuals: Path) -> None:
    command("sync", "manuals")
    (manuals / "valve.txt").unlink()
    assert f"would be deleted: {manuals / 'valve.txt'}\n" in command("sync", "manuals", "--dry-run").stdout
    assert f"deleted: {manuals / 'valve.txt'}\n" in command("sync", "manuals").stdout


def test_a_key_that_no_node_has_is_said(command: CommandLine, manuals: Path) -> None:
    command("ingest", "manuals")
    done = command("query", "pump", "--filter", "file_typ=md")
    assert (done.stdout, done.stderr) == (
        "no hits\n",
        "no node has metadata key 'file_typ'; did you mean 'file_type'?\n",
    )
    (note,) = command("query", "pump", "--filter", "file_typ=md", "--json").json["notes"]
    assert "did you mean 'file_type'" in note
    refused = command("query", "pump", "--filter", "title:like=AB%", status=2)
    assert "unknown operator 'like'" in refused.error
    assert "did you mean title~VALUE?" in refused.hint


def test_a_document_that_is_not_in_quarantine_is_not_released(command: CommandLine, manuals: Path) -> None:
    (manuals / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    command("ingest", "manuals", status=3)
    assert "tried 1 time," in command("quarantine").stdout
    assert command("quarantine", "retry", "nope", status=6).error == "nope is not in quarantine"
    partly = command("quarantine", "retry", "nope", "manuals/broken.pdf", "--json", status=3)
    assert partly.json == {"released": 1, "missing": ["nope"]}
    assert command("quarantine", "retry", "--json").json == {"released": 0, "missing": []}
    assert command("ingest", "manuals", status=3).stderr.count(str(manuals / "broken.pdf")) == 1


def test_status_leaves_with_drift_where_mongodb_lost_everything(
    command: CommandLine, manuals: Path, collection: str, stores: Stores
) -> None:
    command("ingest", "manuals")
    with pymongo.MongoClient[dict[str, Any]](stores.mongo_url, serverSelectionTimeoutMS=10_000) as client:
        client[stores.mongo_database][f"{collection}/data"].drop()
    done = command("status", status=5)
    assert f"NOT WHOLE: MongoDB has no node of collection {collection}; run: ragstore repair" in done.stdout
    assert command("status", "--json", status=5).json["whole"]["empty_in_mongo"] == [collection]
    command("repair", "-c", collection)
    command("status")


@pytest.mark.parametrize("columns", ["80", None])
def test_no_path_is_broken_where_a_terminal_is_narrow(command: CommandLine, manuals: Path, columns: str | None) -> None:
    command("ingest", "manuals")
    command.variables.update({"COLUMNS": columns} if columns else {})
    path = str(manuals / "boiler/descaling.html")
    calls = [("documents",), ("query", "boiler"), ("history", path), ("status",), ("status", "--settings")]
    for call in calls:
        lines = command(*call).stdout.splitlines()
        assert call[0] in ("history", "status") or any(path in line for line in lines), call
        for line in lines if columns else []:
            assert len(line) <= int(columns or 0) or not line.strip(" ,").count(" "), (call, line)


def test_every_command_of_the_readme_does_something(command: CommandLine, manuals: Path, tmp_path: Path) -> None:
    values = {
        "PATH": "manuals", "TEXT": "pump", "DOCUMENT": "manuals/pump.md", "C": "docs", "COLLECTION": "docs", "DIR": "out",
        "PERSIST_DIR": "before", "key=value": "file_type=md", "vector|keyword|hybrid": "hybrid", "plan|apply|status": "plan",
        "list|retry": "list", "TARGET": "backups", "list|verify|prune": "verify",
    }  # fmt: skip
    table = README.read_text().partition("## The command line\n\n```\n")[2].partition("```")[0]
    command("ingest", "manuals", "-c", "docs")
    command("export", "before", "-c", "docs")
    ran = []
    for line in code_of(f"```\n{table}```"):
        for shown in commands_in(line):
            words = shlex.split(shown.replace("…", "").replace("[", "").replace("]", "").replace("'", ""))
            arguments = [{**VALUES, **values}.get(word, word) for word in words]
            if arguments[0] in ("down", "worker", "maintain", "adopt", "ask", "move", "restore", "drill", "compare"):
                continue
            arguments += (
                []
                if "-c" in arguments or "docs" in arguments
                else {"up": [], "status": [], "migrate": [], "reconcile": [], "backup": []}.get(
                    arguments[0], ["-c", "docs"]
                )
            )
            if arguments[0] == "import":  # what was embedded elsewhere is a collection of its own
                arguments[-1] = "imported"
            done = command(*arguments)
            assert done.stdout or arguments[0] == "verify", arguments
            ran.append(arguments[0])
            if arguments[0] in ("delete", "drop"):
                command("ingest", "manuals", "-c", "docs")
    assert len(set(ran)) >= 14, ran


def test_an_error_of_a_sync_is_one_json_document_with_all_names(command: CommandLine, manuals: Path) -> None:
    command("ingest", "manuals")
    for path in manuals.rglob("*.*"):
        path.unlink()
    refused = json.loads(command("sync", "manuals", "--json", status=4).stdout)
    assert (refused["error"]["code"], len(refused["lost_documents"])) == ("refused.mass_deletion", 4)
    assert refused["report"]["deleted"] == 0
