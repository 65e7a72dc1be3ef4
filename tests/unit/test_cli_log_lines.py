from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from ragstore.telemetry.logging import LogFormat, configure_logging, get_logger


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger("ragstore")
    before = (root.handlers, root.level, root.propagate)
    yield
    root.handlers, root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_a_text_line_has_action_message_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    get_logger("ragstore.protocol").info("run %s published", 7, action="publish", n_nodes=12, path="a b")
    line = capsys.readouterr().err
    assert line.endswith('INFO ragstore.protocol publish: run 7 published n_nodes=12 path="a b"\n')


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_path_can_neither_steer_a_terminal_nor_forge_a_line(
    capsys: pytest.CaptureFixture[str], log_format: LogFormat
) -> None:
    configure_logging("info", log_format)
    path = "a\x1b[2J\u202e\n2026-01-31 ERROR forged"
    get_logger("ragstore.x").info(f"not read: {path}", action="kept_out", path=path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line and "\u202e" not in line
    if log_format == "json":
        assert json.loads(line)["path"] == path


def test_a_json_line_has_the_same_and_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        get_logger("ragstore.x").error("failed", action="stage", run_id="r1", exc_info=True)
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"], found["action"], found["message"]) == (
        "error", "ragstore.x", "stage", "failed",
    )  # fmt: skip
    assert found["run_id"] == "r1"
    assert "two" in found["traceback"]


def test_nothing_below_the_level_is_shown_and_nothing_reaches_other_handlers(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    configure_logging()
    log = get_logger("ragstore.x")
    log.info("unseen", action="a")
    log.warning("seen", action="a")
    assert [line.split("a: ")[-1] for line in capsys.readouterr().err.splitlines()] == ["seen"]
    assert not caplog.records


def test_configuring_twice_shows_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    configure_logging("info")
    get_logger("ragstore.x").info("once", action="a")
    assert capsys.readouterr().err.count("once") == 1
