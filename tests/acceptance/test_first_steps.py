"""What somebody does who has just installed ragstore."""

from __future__ import annotations

import json
from pathlib import Path

from ragstore.cli.main import VERBS
from tests.support.command import CommandLine
from tests.support.embedded import processes_of
from tests.support.stores import Stores

REPORT = {"added", "updated", "renamed", "deleted", "unchanged", "failed", "chunks", "embedded", "reused", "seconds"}
REPORT |= {
    "passed_over",
    "collection_made",
    "deleted_documents",
    "forgotten_documents",
    "left_out_documents",
    "noted",
    "quarantined",
    "refused",
}
HIT = {
    "score",
    "text",
    "document_id",
    "source",
    "node_id",
    "metadata",
    "start_char",
    "end_char",
    "page",
    "headings",
    "context",
}


def test_from_nothing_to_an_answer_and_back(own_home: Path, manuals: Path, tmp_path: Path) -> None:
    ragstore = CommandLine(tmp_path, {"home": own_home})
    before = ragstore("status", status=1)
    assert "ragstore up" in before.stdout + before.stderr
    assert processes_of(own_home) == set()  # looking starts nothing

    assert "4 added" in ragstore("ingest", "manuals").stdout
    assert "Descale the boiler" in ragstore("query", "how do I clean the boiler?").stdout
    assert ragstore("status").stdout.count("ok") >= 3

    assert "the data stays" in ragstore("down").stdout
    assert processes_of(own_home) == set()
    assert "nothing was running" in ragstore("down").stdout
    down = ragstore("status", status=1)
    assert "NOT OK" in down.stdout

    assert "Descale the boiler" in ragstore("query", "how do I clean the boiler?").stdout
    assert "4 unchanged" in ragstore("ingest", "manuals").stdout


def test_help_of_every_verb_starts_nothing(own_home: Path, tmp_path: Path) -> None:
    ragstore = CommandLine(tmp_path, {"home": own_home})
    for verb in VERBS:
        shown = ragstore(verb, "--help")
        assert shown.stdout.startswith(f"Usage: ragstore {verb}"), verb
        assert shown.stderr == ""
    assert list(own_home.iterdir()) == []


def test_a_whole_life_of_documents(command: CommandLine, manuals: Path, collection: str, stores: Stores) -> None:
    first = command("ingest", "manuals", "--json").json
    assert set(first) == REPORT
    assert (first["added"], first["failed"], first["embedded"]) == (4, 0, first["chunks"])

    hits = command("query", "oil for the pump", "--json", "-k", "2").json["hits"]
    assert set(hits[0]) == HIT
    assert hits[0]["source"] == hits[0]["document_id"] == str(manuals / "pump.md")
    assert hits[0]["headings"] == ["Pump", "Oil"]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)

    (manuals / "valve.txt").write_text("The relief valve opens at ten bar.\n")
    (manuals / "pump.md").rename(manuals / "water-pump.md")
    second = command("ingest", "manuals", "--json").json
    assert (second["updated"], second["renamed"], second["unchanged"]) == (1, 1, 2)
    assert (second["embedded"], second["reused"]) == (1, first["chunks"] - 3)
    assert "ten bar" in command("query", "relief valve", "-k", "1").stdout

    listed = command("documents", "--json").json["documents"]
    assert [entry["document_id"] for entry in listed] == sorted(
        str(manuals / name) for name in ("water-pump.md", "valve.txt", "boiler/descaling.html", "parts.csv")
    )
    by_name = {Path(entry["document_id"]).name: entry for entry in listed}
    assert by_name["valve.txt"]["revision"] == 2
    assert command("documents").stdout.count(str(manuals)) == 4

    past = command("history", "manuals/valve.txt", "--json").json["events"]
    assert [(event["revision"], event["action"]) for event in past] == [(1, "added"), (2, "updated")]
    moved = command("history", "manuals/pump.md", "--json").json["events"]
    assert moved[-1]["detail"] == {"renamed_to": str(manuals / "water-pump.md")}
    assert stores.assert_agree(collection) == first["chunks"]

    assert command("delete", "manuals/valve.txt", "./manuals/parts.csv", "--json").json == {"deleted": 2, "missing": []}
    assert (manuals / "valve.txt").exists()
    assert "bar" not in command("query", "relief valve nine ten bar", "--mode", "keyword").stdout
    assert len(command("documents", "--json").json["documents"]) == 2
    assert command("history", "manuals/valve.txt", "--json").json["events"][-1]["action"] == "deleted"
    stores.assert_agree(collection)

    again = command("ingest", "manuals", "--json").json
    assert (again["added"], again["unchanged"]) == (2, 2)


def test_a_file_is_found_by_any_spelling_of_its_path(command: CommandLine, manuals: Path) -> None:
    command("ingest", "manuals")
    spellings = ["manuals/valve.txt", "./manuals/../manuals/valve.txt", str(manuals / "valve.txt")]
    for spelling in spellings:
        assert len(command("history", spelling, "--json").json["events"]) == 1, spelling


def test_some_documents_of_a_delete_may_be_missing(command: CommandLine, manuals: Path) -> None:
    command("ingest", "manuals")
    partly = command("delete", "manuals/valve.txt", "manuals/nothing.txt", "--json", status=3)
    assert partly.json == {"deleted": 1, "missing": ["manuals/nothing.txt"]}
    assert "not there: manuals/nothing.txt" in partly.stderr
    assert command("delete", "manuals/valve.txt", status=6).error == "no document manuals/valve.txt"


def test_status_has_the_promised_shape(command: CommandLine, manuals: Path, collection: str) -> None:
    command("ingest", "manuals")
    status = command("status", "--json").json
    assert set(status) == {"postgres", "mongo", "schema", "stores", "collections", "whole"}
    assert status["stores"]["ok"] and status["stores"]["epoch"] == 1
    assert status["whole"]["ok"]
    assert set(status["postgres"]) == {"ok", "version", "url"}
    assert set(status["mongo"]) == {"ok", "version", "url", "database"}
    assert set(status["schema"]) == {"ok", "current", "head"}
    assert [status[part]["ok"] for part in ("postgres", "mongo", "schema")] == [True, True, True]
    assert status["schema"]["current"] == status["schema"]["head"]
    assert "********@127.0.0.1" in status["postgres"]["url"]
    ours = next(entry for entry in status["collections"] if entry["name"] == collection)
    assert {"name", "documents", "nodes", "model", "dim"} <= set(ours)
    assert (ours["documents"], ours["model"], ours["dim"]) == (4, "wordllama", 256)
    assert ours["nodes"] == 5


def test_every_kind_of_search_finds_what_it_should(command: CommandLine, manuals: Path) -> None:
    command("ingest", "manuals")
    for mode in ("vector", "keyword", "hybrid"):
        best = command("query", "vinegar for the boiler", "--mode", mode, "-k", "1", "--json").json["hits"]
        assert [Path(hit["source"]).name for hit in best] == ["descaling.html"], mode
    only = command("query", "vinegar for the boiler", "--filter", "file_type=txt", "--json").json["hits"]
    assert {hit["metadata"]["file_type"] for hit in only} == {"txt"}
    several = ("--filter", "file_type:in=md,csv", "--filter", "file_name!=parts.csv")
    assert {hit["metadata"]["file_name"] for hit in command("query", "pump", *several, "--json").json["hits"]} == {
        "pump.md"
    }
    tree = json.dumps({"or": [{"key": "file_type", "value": "csv"}, {"key": "file_type", "value": "html"}]})
    found = command("query", "price of a gasket", "--filter", tree, "--json").json["hits"]
    assert {hit["metadata"]["file_type"] for hit in found} == {"csv", "html"}
    varied = command("query", "pump", "--mmr", "0.5", "-k", "3", "--json").json["hits"]
    assert len({hit["node_id"] for hit in varied}) == 3


def test_migrating_what_is_up_to_date_does_nothing(command: CommandLine) -> None:
    command("up")
    assert command("migrate", "plan", "--json").json == {"planned": []}
    assert command("migrate", "--json").json == {"applied": []}
    assert command("migrate", "status", "--json").json["ok"] is True
