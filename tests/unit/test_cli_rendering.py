from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ragstore.cli.ask import NO_MODEL, answer_lines, notes
from ragstore.cli.documents import document_as_dict, document_cells
from ragstore.cli.history import event_lines
from ragstore.cli.hits import excerpt, hit_lines, place
from ragstore.cli.ingest import failure_lines, passed_over_lines, passed_over_words, report_line
from ragstore.cli.options import spellings
from ragstore.cli.output import bytes_in_words, counted, fitted, plain, table, write_json, write_json_list
from ragstore.cli.progress import in_words, lines, seconds_left
from ragstore.cli.quarantine import entry_lines
from ragstore.cli.status import status_lines
from ragstore.errors import Retry
from ragstore.model.document import DocumentState, Event, QuarantineEntry
from ragstore.model.hit import Hit
from ragstore.model.report import IngestReport, Progress, SetAside
from ragstore.query.answer import Answer, Citation
from ragstore.sources.listing import PASSED_OVER_LINK

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def a_hit(**changes: Any) -> Hit:
    values: dict[str, Any] = {
        "score": 0.5,
        "text": "Clean the pump weekly.",
        "document_id": "/manuals/pump.pdf",
        "source": "/manuals/pump.pdf",
        "node_id": "n1",
    }
    return Hit(**values | changes)


def an_entry(document_id: str = "/a.pdf", *, minute: int = 0) -> QuarantineEntry:
    return QuarantineEntry(
        document_id=document_id,
        source_uri=document_id,
        code="content.parse",
        reason="the file\nends early",
        hint="repair the file",
        retry=Retry.NEVER,
        attempts=2,
        first_at=NOON,
        last_at=NOON.replace(minute=minute),
    )


def a_progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "step": "documents",
        "expected": 500,
        "is_final": True,
        "done": 120,
        "failed": 0,
        "chunks": 4210,
        "bytes_done": 1000,
        "bytes_expected": 5000,
        "seconds": 10.0,
    }
    return Progress(**values | changes)


def a_status(**changes: Any) -> dict[str, Any]:
    return {
        "postgres": {"ok": True, "version": "18.4", "url": "postgresql://u:***@h/d"},
        "mongo": {"ok": True, "version": "8.0", "url": "mongodb://h", "database": "ragstore"},
        "schema": {"ok": True, "current": "0001", "head": "0001"},
        "stores": {"ok": True, "epoch": 1},
        "collections": [{"name": "docs", "documents": 12, "nodes": 340, "model": "wordllama", "dim": 256}],
    } | changes


def test_a_hit_shows_rank_score_place_and_text() -> None:
    hit = a_hit(page=3, headings=("Care", "Cleaning"), start_char=120, end_char=142)
    assert hit_lines([hit], 80) == [
        "1. 0.5000  /manuals/pump.pdf, page 3, Care > Cleaning, characters 120-142",
        "    Clean the pump weekly.",
    ]


def test_a_long_text_is_cut_to_a_few_lines_that_fit() -> None:
    assert excerpt("# Pump\n\n  Clean it.", 60) == ["    # Pump", "    Clean it."]
    found = excerpt("word " * 500, 60)
    assert len(found) == 4
    assert all(len(line) <= 60 for line in found)
    assert found[-1].endswith("…")


def test_stored_text_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in "".join(hit_lines([a_hit(text="\x1b[2Jboo", source="a\x1b]0;x\x07")], 80))
    assert plain("tab\tand\nline stay, \x9b is shown") == "tab\tand\nline stay, \\x9b is shown"
    assert plain("lone \udc80 surrogate") == "lone \\udc80 surrogate"


UNSEEN = [
    *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *map(chr, range(0x200B, 0x2010)),
    *map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2060, 0x2070)), *"\u061c\ufeff\u180e\xad", "\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("unseen", sorted(set(UNSEEN) - {"\t", "\n"}), ids=ascii)
def test_what_cannot_be_seen_is_shown_escaped(unseen: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"invoice{unseen}fdp.exe"
    shown = f"invoice{ascii(unseen)[1:-1]}fdp.exe"
    assert plain(name) == shown
    assert unseen not in "".join(hit_lines([a_hit(text=name, source=name)], 80))
    write_json({"name": name})
    written = capsys.readouterr().out
    assert unseen not in written
    assert json.loads(written) == {"name": name}


def test_other_scripts_and_signs_stay() -> None:
    text = "Öl, \u0627\u0644\u0639\u0631\u0628\u064a\u0629, \u05e2\u05d1\u05e8\u05d9\u05ea, \u65e5\u672c, \U0001f600, e\u0301"
    assert plain(text) == text


def test_no_hits_are_said_to_be_none() -> None:
    assert hit_lines([], 80) == ["no hits"]
    assert place(a_hit(source="")) == "/manuals/pump.pdf"
    assert place(a_hit(source="/a.zip", document_id="/a.zip!//b.md")).startswith("/a.zip!//b.md")


def test_an_answer_lists_the_sources_it_cites_by_number() -> None:
    first, second = a_hit(), a_hit(source="/b.txt", node_id="n2")
    answer = Answer("Weekly [2], with care [1].", (Citation(2, second), Citation(1, first)), (first, second), (7,))
    assert answer_lines(answer, 80) == [
        "Weekly [2], with care [1].", "", "sources", "[1] /manuals/pump.pdf", "[2] /b.txt",
    ]  # fmt: skip
    assert "cited 7" in notes(answer)[0]


def test_without_a_model_ask_shows_the_hits_and_says_which_setting_is_missing() -> None:
    answer = Answer(None, (), (a_hit(),))
    assert notes(answer) == [NO_MODEL]
    assert "RAGSTORE_LLM" in NO_MODEL
    assert answer_lines(answer, 80) == hit_lines([a_hit()], 80)
    assert notes(Answer(None, (), ())) == []


def test_a_report_names_only_what_happened() -> None:
    report = IngestReport(added=2, unchanged=1500, failed=1, chunks=40, embedded=12, reused=28, seconds=1.23)
    assert report_line(report) == ("2 added, 1,500 unchanged, 1 failed; 40 chunks (12 embedded, 28 reused) in 1.2 s")
    assert report_line(IngestReport(unchanged=3)) == "3 unchanged in 0.0 s"
    assert report_line(IngestReport()) == "nothing found in 0.0 s"


def test_failures_show_the_first_reasons_once_and_how_many_more() -> None:
    aside = [SetAside(f"/{n}.pdf", "content.parse", f"/{n}.pdf the file\nends early") for n in range(7)]
    found = failure_lines(IngestReport(failed=7, quarantined=aside))
    assert found[0] == "quarantined: /0.pdf: the file ends early"
    assert found[-2:] == ["and 2 more", "hint: 'ragstore quarantine list' shows all with their reasons"]
    assert len(found) == 7
    of_another = failure_lines(IngestReport(failed=7, quarantined=aside), "papers")
    assert of_another[-1] == "hint: 'ragstore quarantine list -c papers' shows all with their reasons"
    assert failure_lines(IngestReport(failed=7, quarantined=aside), dry_run=True)[0].startswith(
        "cannot be taken in: /0"
    )
    assert failure_lines(IngestReport()) == []


def test_what_is_passed_over_is_named_by_its_reason() -> None:
    report = IngestReport(added=1)
    report.passed_over.add("type .png", [f"/{n}.png" for n in range(5)])
    report.passed_over.add("hidden", ["/.git"])
    assert report_line(report) == "1 added, 6 passed over (.png 5, hidden 1) in 0.0 s"
    assert passed_over_lines(report.passed_over) == [
        "passed over: 1 (hidden)", "  /.git", "passed over: 5 (type .png)", "  /0.png", "  /1.png", "  /2.png",
        "  and 2 more",
    ]  # fmt: skip
    assert passed_over_lines(report.passed_over, verbose=True)[-1] == "  /4.png"
    report.passed_over.add("no type", ["/README"])
    report.passed_over.add(PASSED_OVER_LINK, ["/link"])
    words = ".png 5, hidden 1, without a type 1, leads out of the named folders 1"
    assert passed_over_words(report.passed_over) == words
    assert report.as_dict()["passed_over"]["hidden"] == {"count": 1, "examples": ["/.git"]}


@pytest.mark.parametrize("width", [None, 80, 40])
def test_no_path_is_broken_at_the_end_of_a_line(width: int | None) -> None:
    path = f"/srv/{'documents/' * 3}a-manual-with-a-name.pdf"
    rows = [("ok", "18.4", path), ("NOT OK", None, "/short")]
    lines = fitted(("state", "version", "where"), rows, width)
    assert any(path in line for line in lines)
    assert all(len(line) <= (width or 999) or line.strip() == path for line in lines)
    for line in hit_lines(
        [a_hit(source=path, page=3, headings=("Care",), start_char=5910, end_char=6785)], width or 999
    ):
        assert len(line) <= (width or 999) or line.strip(", ") == path
    assert len(hit_lines([a_hit(source=path)], 999)) == 2


def test_one_is_singular() -> None:
    assert [counted(n, "time") for n in (0, 1, 1000)] == ["0 times", "1 time", "1,000 times"]


def test_progress_tells_rate_and_time_left() -> None:
    assert in_words(a_progress(failed=3)) == ("120 of 500 documents, 3 failed, 4,210 chunks, 421 chunks/s, 40 s left")
    assert in_words(a_progress(is_final=False)).startswith("120 of 500+ documents")


def test_time_left_is_unknown_until_the_listing_is_done() -> None:
    assert seconds_left(a_progress()) == 40.0
    assert seconds_left(a_progress(is_final=False)) is None
    assert seconds_left(a_progress(bytes_done=0, bytes_expected=0)) is None
    assert seconds_left(a_progress(bytes_done=49)) is None
    assert seconds_left(a_progress(done=500)) is None


def test_piped_progress_says_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    listen = lines(in_words, every_s=5.0, clock=lambda: now)
    for second in range(12):
        now = float(second)
        listen(a_progress(done=second))
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["5", "10"]


def test_status_shows_what_is_not_well_and_what_to_do() -> None:
    text = "\n".join(status_lines(a_status(schema={"ok": False, "current": None, "head": "0002"})))
    assert "NOT OK" in text
    assert "run: ragstore migrate" in text
    assert "docs" in text
    assert "340" in text
    assert "NOT OK" not in "\n".join(status_lines(a_status()))
    down = {"ok": False, "version": None, "url": "postgresql://h/d", "error": "refused\nby host"}
    assert status_lines(a_status(postgres=down, collections=[]))[-1] == "postgres: refused by host"
    assert "ragstore ingest" in "\n".join(status_lines(a_status(collections=[])))
    restored = {"ok": False, "epoch": 1, "error": "MongoDB was restored ('ragstore reconcile' helps)"}
    assert "stores: MongoDB was restored ('ragstore reconcile' helps)" in status_lines(a_status(stores=restored))


def test_documents_and_events_keep_a_stable_shape() -> None:
    document = DocumentState(
        "/a.txt", "/a.txt", 3, 12, size=1400, published_at=NOON, metadata={"k": 1}, notes={"bom": 1}
    )
    assert document_as_dict(document) == {
        "document_id": "/a.txt",
        "source": "/a.txt",
        "revision": 3,
        "nodes": 12,
        "size": 1400,
        "published_at": "2026-01-31T12:00:00+00:00",
        "metadata": {"k": 1},
        "notes": {"bom": 1},
    }
    assert document_cells(document).split() == ["12", "3", "1.4", "kB", "2026-01-31", "12:00:00+00:00"]
    event = Event(1, NOON, "w@h", "/a.txt", 3, "updated", "r", 12, 2, 10)
    assert event.as_dict()["at"] == "2026-01-31T12:00:00+00:00"
    assert event_lines([event])[1].split() == ["2026-01-31", "12:00:00+00:00", "updated", "3", "12", "2", "10", "w@h"]
    long = replace(event, worker="vm/4026531836/455/1795988512.69")
    assert event_lines([long])[1].endswith("  vm/455")


def test_a_quarantine_entry_tells_reason_and_hint() -> None:
    assert entry_lines([an_entry()]) == [
        "/a.pdf",
        "    the file ends early (content.parse, tried 2 times, last 2026-01-31 12:00:00+00:00)",
        "    hint: repair the file",
    ]
    assert an_entry().as_dict()["retry"] == "never"
    assert entry_lines([]) == ["nothing is in quarantine"]


def test_a_relative_path_is_also_tried_as_an_absolute_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spellings("a.txt")[:2] == ["a.txt", f"{tmp_path}/a.txt"]
    assert spellings("s3://bucket/a.txt") == ["s3://bucket/a.txt"]


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    assert table(("name", "nodes"), [("a", 5), ("longer", 1000), ("c", None)]) == [
        "name    nodes",
        "a           5",
        "longer   1000",
        "c           -",
    ]
    assert table(("name", "nodes"), []) == ["name  nodes"]


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(None, "-"), (0, "0 B"), (999, "999 B"), (1400, "1.4 kB"), (123_456_789, "123 MB")]
)
def test_sizes_are_told_in_words(n_bytes: int | None, words: str) -> None:
    assert bytes_in_words(n_bytes) == words


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_streamed_list_is_one_json_document(n: int, capsys: pytest.CaptureFixture[str]) -> None:
    write_json_list("items", ({"i": i} for i in range(n)))
    assert json.loads(capsys.readouterr().out) == {"items": [{"i": i} for i in range(n)]}


def test_json_carries_paths_that_are_no_valid_text(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"path": "caf\u00e9 \udc80"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": "caf\u00e9 \udc80"}
    out.encode()
    assert sys.stdout.encoding != "utf-8" or "caf\u00e9" in out
