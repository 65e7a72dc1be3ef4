from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ragstore.cli.exit_status import tell_error, tell_interrupted, tell_unexpected
from ragstore.cli.invocation import Invocation, split_off
from ragstore.cli.main import VERBS, app
from ragstore.errors import EmptyStoreError, FilterError, StoreUnavailableError


def ran(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ragstore", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
        env=os.environ | variables,
    )


def test_help_lists_every_verb() -> None:
    out = ran("--help").stdout
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\S", out, re.MULTILINE), verb


def test_help_of_every_verb_explains_itself_and_its_json() -> None:
    program = app()
    for verb in VERBS:
        help_text = CliRunner().invoke(program, [verb, "--help"])
        assert help_text.exit_code == 0, help_text.output
        assert "--json: " in help_text.output, verb


def test_help_imports_little_and_nothing_heavy() -> None:
    program = "import sys; from ragstore.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    imported = set(done.stderr.split())
    assert imported & {"pydantic", "rich", "pymongo", "psycopg2", "numpy", "llama_index", "sqlalchemy"} == set()
    assert len(imported) < 250


def test_a_verb_is_loaded_without_the_others() -> None:
    program = (
        "import sys; from ragstore.cli.main import VERBS, main; main(['query', '--help']);"
        "print([verb for verb in VERBS if f'ragstore.cli.{verb}'.replace('import', 'import_') in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.strip() == "['query']"


INTERRUPTED_WHILE_IMPORTING = """
import os, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {signum})

sys.meta_path.insert(0, Interrupt())
from ragstore.cli.entry import main
sys.argv[1:] = ["status", "--settings"]
sys.exit(main())
"""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "module",
    ["ragstore.cli.main", "typer", "ragstore.cli.exit_status", "ragstore.cli.status", "pydantic", "ragstore.settings"],
)
def test_an_interrupt_at_any_moment_of_the_start_is_said_in_one_line(module: str, signum: int, status: int) -> None:
    program = INTERRUPTED_WHILE_IMPORTING.format(module=module, signum=int(signum))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == "interrupted; nothing is lost, run the same command again\n"


def test_an_interrupt_after_the_end_changes_no_exit_status() -> None:
    program = (
        "import atexit, os, signal, sys; atexit.register(os.kill, os.getpid(), signal.SIGINT);"
        "from ragstore.cli.entry import main; sys.argv[1:] = ['nonsense']; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "interrupted" not in done.stderr


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert ran("--version").stdout == f"ragstore {version('ragstore')}\n"


def test_no_verb_shows_the_help_and_fails_as_usage() -> None:
    done = ran()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: ragstore" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("query",),
        ("query", " "),
        ("query", "x", "-k", "0"),
        ("query", "x", "--mode", "best"),
        ("--nonsense",),
        ("migrate", "x"),
    ],
)
def test_a_wrong_call_is_two_lines_and_exit_status_2(arguments: tuple[str, ...]) -> None:
    done = ran(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: run: ragstore")
    assert hint.endswith("--help")


def test_a_wrong_setting_is_two_lines_and_exit_status_2() -> None:
    done = ran("status", "--settings", RAGSTORE_TOP_K="none")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert "RAGSTORE_TOP_K is 'none'" in done.stderr


def test_an_error_is_a_json_document_too_when_json_is_wanted() -> None:
    done = ran("status", "--settings", "--json", RAGSTORE_TOPK="3")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "settings.invalid"
    assert error["retry"] == "never"
    assert "RAGSTORE_TOPK" in error["message"]
    assert "RAGSTORE_TOP_K" in error["hint"]


@pytest.mark.parametrize("arguments", [("--debug", "status"), ("status", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(arguments: tuple[str, ...]) -> None:
    assert "Traceback" in ran(*arguments, RAGSTORE_TOP_K="x").stderr
    assert "Traceback" not in ran("status", RAGSTORE_TOP_K="x").stderr


def test_a_word_after_two_dashes_is_no_flag() -> None:
    assert split_off(["query", "--", "--debug"]) == (Invocation(), ["query", "--", "--debug"])
    assert split_off(["query", "--debug", "x", "--json"]) == (
        Invocation(debug=True, json=True),
        ["query", "x", "--json"],
    )


def test_settings_are_shown_with_their_origin_and_without_secrets() -> None:
    variables = {"RAGSTORE_TOP_K": "7", "RAGSTORE_MODEL_API_KEY": "sk-hunter2"}
    text = ran("status", "--settings", **variables).stdout
    assert "RAGSTORE_TOP_K = 7  (environment)" in text
    assert "RAGSTORE_CHUNK_SIZE = 256  (default)" in text
    assert "hunter2" not in text
    rows = json.loads(ran("status", "--settings", "--json", **variables).stdout)["settings"]
    assert {"name", "value", "origin", "default", "allowed", "help"} == set(rows[0])
    shown = ran("status", "--settings", "--show-secrets", **variables).stdout
    assert "sk-hunter2" in shown


def test_a_reader_that_stops_reading_ends_the_command_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ragstore", "status", "--settings", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=30), stderr) == (141, "")


@pytest.mark.parametrize(
    ("error", "exit_status"),
    [(FilterError("a"), 2), (EmptyStoreError("a"), 4), (StoreUnavailableError("a"), 1)],
)
def test_the_kind_of_error_decides_the_exit_status(error: FilterError, exit_status: int) -> None:
    assert tell_error(error, Invocation()) == exit_status


def test_an_unexpected_error_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell_unexpected(KeyError("x"), Invocation()) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    error, hint = captured.err.splitlines()
    assert error == "error: unexpected KeyError: 'x'"
    assert "--debug" in hint


@pytest.mark.parametrize(("signum", "exit_status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_that_nothing_is_lost(
    signum: int, exit_status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell_interrupted(signum) == exit_status
    assert capsys.readouterr().err == "interrupted; nothing is lost, run the same command again\n"


WAITS_FOR_EVER = """
import signal, sys
from types import SimpleNamespace
from ragstore.cli import exit_status, main

def wait() -> None:
    try:
        print("ready", flush=True)
        signal.pause()
    finally:
        print("closing", flush=True)
        if {slow_to_close}:
            exit_status.SAME_SIGNAL_S = 0.0
            signal.pause()

main.VERBS = ("wait",)
sys.modules["ragstore.cli.wait"] = SimpleNamespace(wait=wait)
sys.exit(main.main(["wait"]))
"""


def a_waiting_verb(*, slow_to_close: bool = False) -> subprocess.Popen[str]:
    program = WAITS_FOR_EVER.replace("{slow_to_close}", str(slow_to_close))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("signum", "exit_status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_that_arrives_once_or_doubled_unwinds_the_verb_and_is_told_in_one_line(
    signum: signal.Signals, exit_status: int, times: int
) -> None:
    process = a_waiting_verb()
    for _ in range(times):
        process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (exit_status, "closing\n")
    assert stderr == "interrupted; nothing is lost, run the same command again\n"


def test_another_signal_while_it_closes_ends_the_process_at_once() -> None:
    process = a_waiting_verb(slow_to_close=True)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "closing\n"
    while process.poll() is None:  # the first one may come before the limit is lowered
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
