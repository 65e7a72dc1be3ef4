"""What the bench shows of what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.measurements import (
    Curve,
    Goal,
    Line,
    Results,
    at_least,
    at_most,
    number,
    rate_times,
    series,
    time_times,
    times_faster,
)
from tests.benchmarks.report import HEADINGS, cells, notes, page, result_lines, write_page, write_results

OURS, PLAIN, RAW = series("nodes/s", [9_000, 8_000, 9_500]), series("nodes/s", [180]), series("nodes/s", [12_000])
CURVE = Curve("query, top-10, p50", "ms", {"ragstore": [(1_000, 0.7), (10_000, 0.8)], "plain": [(1_000, 2.1)]})


def a_line(row: int = 1, *goals: Goal, note: str = "the plain stack got 400 nodes") -> Line:
    return Line(row, "storing 10,000 nodes × 256", OURS, PLAIN, RAW, goals, (note,))


def some_results(*lines: Line) -> Results:
    machine = {"Python": "3.11.7", "PostgreSQL": "18.4", "pgvector": "0.8.5", "mongod": "6.0.5", "CPUs": "2"}
    return Results("2026-01-31", machine, 3, 61.5, list(lines), [CURVE], ["row 10, memory of a backup"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12_345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.2345, "1.23"), (0.7, "0.7"), (0.0123456, "0.0123"),
     (1.0, "1"), (0, "0"), (99.99, "100"), (float("inf"), "inf")],
)  # fmt: skip
def test_a_number_is_shown_with_three_figures(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_series_shows_its_median_and_half_of_its_range() -> None:
    assert str(OURS) == "9,000 nodes/s ±8%"
    assert str(PLAIN) == "180 nodes/s"
    assert OURS.as_dict() == {"unit": "nodes/s", "median": 9_000, "spread": 0.0833333, "values": [9_000, 8_000, 9_500]}


def test_a_goal_says_whether_it_is_met_by_its_own_direction() -> None:
    fast, slow = series("ms", [1.0]), series("ms", [1.5])
    assert rate_times(OURS, RAW, 0.7, "raw").met
    assert not rate_times(OURS, RAW, 0.8, "raw").met
    assert time_times(slow, fast, 1.6, "raw").met
    assert not time_times(slow, fast, 1.3, "raw").met
    assert times_faster(fast, slow, 1.5, "plain").met
    assert not times_faster(slow, fast, 1.5, "plain").met
    assert at_least("recall", 0.98, 0.98).met and not at_least("recall", 0.979, 0.98).met
    assert at_most("ms", 50, 50).met and not at_most("ms", 50.1, 50).met


def test_each_goal_of_a_line_has_a_row_of_cells_and_only_the_first_repeats_the_measured() -> None:
    rows = cells([a_line(1, rate_times(OURS, RAW, 0.7, "raw"), rate_times(OURS, PLAIN, 60, "plain")), a_line(2)])
    measured = ("9,000 nodes/s ±8%", "180 nodes/s", "12,000 nodes/s")
    assert rows == [
        ("1", "storing 10,000 nodes × 256", "≥ 0.7 × raw", *measured, "0.75", "met"),
        ("", "", "≥ 60 × plain", "", "", "", "50", "MISSED"),
        ("2", "storing 10,000 nodes × 256", "", *measured, "", ""),
    ]
    assert {len(row) for row in rows} == {len(HEADINGS)}


def test_what_was_not_measured_beside_ours_is_an_empty_cell() -> None:
    assert cells([Line(10, "verify", OURS)]) == [("10", "verify", "", "9,000 nodes/s ±8%", "", "", "", "")]


def test_a_note_is_said_once_for_each_row() -> None:
    assert notes([a_line(1, note="same"), a_line(1, note="same"), a_line(2, note="same")]) == [
        "row 1: same",
        "row 2: same",
    ]


def test_the_lines_for_a_terminal_have_the_table_the_notes_what_is_left_out_and_the_sum() -> None:
    lines = result_lines(some_results(a_line(1, at_least("nodes/s", 9_000, 100_000), at_most("ms", 1, 2))))
    assert lines[0].split() == ["row", "work", "goal", "ours", "plain", "raw", "ratio"]
    assert lines[1].startswith("1    storing 10,000 nodes × 256  nodes/s ≥ 100,000  9,000 nodes/s ±8%")
    assert lines[1].endswith("MISSED")
    assert "note: row 1: the plain stack got 400 nodes" in lines
    assert "left out: row 10, memory of a backup" in lines
    assert lines[-1] == "1 of 2 goals met, medians of 3 rounds, 62 s"


def test_the_page_names_versions_links_the_picture_and_marks_what_was_missed(tmp_path: Path) -> None:
    results = some_results(a_line(1, at_least("nodes/s", 9_000, 100_000)))
    write_page(results, str(tmp_path / "results.md"), picture=str(tmp_path / "drawn" / "results.svg"))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "- PostgreSQL: 18.4\n- pgvector: 0.8.5\n- mongod: 6.0.5\n- CPUs: 2" in text
    assert "| 1 | storing 10,000 nodes × 256 | nodes/s ≥ 100,000 |" in text
    assert "**MISSED**" in text
    assert "](drawn/results.svg)" in text
    assert "0 of 1 goals met." in text
    assert "- row 10, memory of a backup" in text


def test_a_page_without_a_picture_links_none() -> None:
    assert "![" not in page(some_results(a_line()), picture=None)


def test_the_json_file_has_every_value(tmp_path: Path) -> None:
    results = some_results(a_line(1, rate_times(OURS, RAW, 0.7, "raw")))
    write_results(results, str(tmp_path / "results.json"))
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (line,) = found["lines"]
    assert line["ours"]["values"] == [9_000, 8_000, 9_500]
    assert line["goals"] == [{"text": "≥ 0.7 × raw", "value": 0.75, "limit": 0.7, "met": True}]
    assert found["curves"][0]["points"]["ragstore"] == [[1_000, 0.7], [10_000, 0.8]]
    assert found["left_out"] == ["row 10, memory of a backup"]


@pytest.mark.parametrize(("name", "begins"), [("results.svg", b"<?xml"), ("results.png", b"\x89PNG")])
def test_the_picture_has_the_format_of_its_name(name: str, begins: bytes, tmp_path: Path) -> None:
    report.draw([CURVE, CURVE], str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_the_same_results_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("first.svg", "second.svg"):
        report.draw([CURVE], str(tmp_path / name))
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
