"""``ragstore ask`` with a language model, with one that makes things up, with one that fails, and with none."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.command import CommandLine
from tests.support.model_server import Fault, ModelServer, running_model_server

KEY = "sk-hunter2swordfish"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_model_server() as running:
        yield running


@pytest.fixture
def asking(command: CommandLine, manuals: Path, server: ModelServer) -> CommandLine:
    """A command line with documents and a language model."""
    command("ingest", "manuals")
    command.options = {**command.options, "llm": "openai:m", "llm_base_url": server.openai_url, "llm_api_key": KEY}
    command.secrets = (KEY,)
    return command


def test_without_a_model_it_says_so_and_shows_the_hits(command: CommandLine, manuals: Path) -> None:
    command("ingest", "manuals")
    done = command("ask", "how do I clean the boiler?", "-k", "2")
    assert "no language model is configured" in done.stderr
    assert "RAGSTORE_LLM" in done.stderr
    assert "Descale the boiler with vinegar" in done.stdout
    document = command("ask", "how do I clean the boiler?", "-k", "2", "--json").json
    assert document["answer"] is None
    assert (document["citations"], document["unsupported"]) == ([], [])
    assert len(document["hits"]) == 2


def test_an_answer_carries_its_sources(asking: CommandLine, server: ModelServer, manuals: Path) -> None:
    server.says("Use vinegar [1].")
    done = asking("ask", "how do I clean the boiler?")
    answer, sources = done.stdout.split("sources\n")
    assert "Use vinegar [1]." in answer
    # A long path has a line of its own.
    assert " ".join(sources.split()).startswith(f"[1] {manuals / 'boiler/descaling.html'}")
    assert done.stderr == ""
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "Descale the boiler with vinegar" in str(request.body)
    assert "how do I clean the boiler?" in str(request.body)


def test_a_citation_that_stands_for_no_hit_is_marked_and_told(asking: CommandLine, server: ModelServer) -> None:
    server.says("Use vinegar [1], never petrol [17].")
    document = asking("ask", "how do I clean the boiler?", "--json").json
    assert [citation["number"] for citation in document["citations"]] == [1]
    assert document["citations"][0]["hit"] == document["hits"][0]
    assert document["unsupported"] == [17]
    assert document["answer"] == "Use vinegar [1], never petrol [no source]."
    server.says("Use vinegar [1], never petrol [17].")
    assert "17, which is no source" in asking("ask", "how do I clean the boiler?").stderr


def test_a_filter_keeps_documents_from_the_model(asking: CommandLine, server: ModelServer) -> None:
    server.says("I do not know.")
    asking("ask", "how do I clean the boiler?", "--filter", "file_type=csv")
    assert "vinegar" not in str(server.requests[0].body)
    assert "gasket" in str(server.requests[0].body)


def test_without_hits_the_model_is_not_asked(asking: CommandLine, server: ModelServer) -> None:
    document = asking("ask", "how do I clean the boiler?", "--filter", "file_type=none", "--json").json
    assert (document["answer"], document["hits"]) == (None, [])
    assert server.requests == []


def test_a_model_that_refuses_the_key_is_told_without_the_key(asking: CommandLine, server: ModelServer) -> None:
    server.fails_with(*[Fault(status=401, text=f'{{"error": {{"message": "bad key {KEY}"}}}}')] * 8)
    done = asking("ask", "how do I clean the boiler?", status=1)
    assert "RAGSTORE_LLM" in done.error + done.hint
    assert done.stdout == ""


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
def test_on_a_terminal_an_answer_is_shown_as_it_comes(
    asking: CommandLine, server: ModelServer, flags: list[str]
) -> None:
    server.says("Use vinegar [1], and never petrol [17].")
    server.go_on = threading.Event()
    ours, theirs = os.openpty()
    arguments = [asking.python, "-m", "ragstore", "ask", "how do I clean the boiler?", *flags]
    with subprocess.Popen(
        arguments, cwd=asking.folder, env=asking._environment({}), stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        seen = b""
        if not flags:
            while b"vinegar [1]" not in seen:
                seen += os.read(ours, 4096)
            assert b"sources" not in seen
        server.go_on.set()
        with suppress(OSError):  # the terminal is gone when the process is
            while piece := os.read(ours, 4096):
                seen += piece
        assert process.wait() == 0
    os.close(ours)
    assert b"Use vinegar [1], and never petrol [no source].\r\n\r\nsources\r\n[1]" in seen
    assert server.requests[-1].body["stream"] is (not flags)


def test_asking_loads_no_client_library(asking: CommandLine, server: ModelServer) -> None:
    server.says("Use vinegar [1].")
    asking.variables["PYTHONPROFILEIMPORTTIME"] = "1"
    loaded = asking("ask", "how do I clean the boiler?").stderr
    assert "httpx" in loaded
    assert not {"llama_index.core", "openai"} & {line.rpartition("|")[2].strip() for line in loaded.splitlines()}
