"""The benchmark, run as ``make bench`` runs it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pymongo
import pytest

from ragstore.embedded import ServerUrls, remembered_urls
from tests.benchmarks.compare import NUMBERS
from tests.benchmarks.databases import NAME
from tests.support.children import PYTHONPATH
from tests.support.command import CommandLine
from tests.support.embedded import execute, until
from tests.support.roles import a_database_with_roles
from tests.support.servers import Servers

MODULE = "tests.benchmarks.compare"
QUICK = ("--quick", "--rounds", "1")
ROW_GROUPS = ("1,4,9", "3,5,6", "2,7", "8,10")


@pytest.fixture
def bench(command: CommandLine) -> CommandLine:
    return replace(command, module=MODULE, variables=dict(PYTHONPATH))


@pytest.fixture
def urls(command: CommandLine, shared_home: Path) -> ServerUrls:
    command("up")
    found = remembered_urls(shared_home)
    assert found is not None
    return found


@pytest.fixture
def foreign(urls: ServerUrls) -> Iterator[str]:
    """URL of a database of that name that somebody else made."""
    execute(urls, f"CREATE DATABASE {NAME}")
    yield urlunsplit(urlsplit(urls.postgres_url)._replace(path=f"/{NAME}"))
    execute(urls, f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")


def databases(urls: ServerUrls) -> list[str]:
    """Those of the bench's name on either server."""
    with pymongo.MongoClient[dict[str, Any]](urls.mongo_url) as client:
        in_mongo = [f"mongo {name}" for name in client.list_database_names() if name == NAME]
    return [
        f"postgres {NAME}" for _ in execute(urls, f"SELECT oid FROM pg_database WHERE datname = '{NAME}'")
    ] + in_mongo


def until_at_work(urls: ServerUrls) -> None:
    def is_at_work() -> bool:
        with pymongo.MongoClient[dict[str, Any]](urls.mongo_url) as client:
            return any(name.endswith("/data") for name in client[NAME].list_collection_names())

    until(is_at_work, "the bench stores nodes", timeout_s=60)


def test_the_groups_are_all_rows() -> None:
    assert sorted(int(row) for group in ROW_GROUPS for row in group.split(",")) == list(NUMBERS)


@pytest.mark.parametrize("rows", ROW_GROUPS)
def test_each_row_is_in_the_table_and_in_the_json_file(
    rows: str, bench: CommandLine, urls: ServerUrls, tmp_path: Path
) -> None:
    done = bench(*QUICK, "--rows", rows, "--results", tmp_path / "results.json")
    heading, *lines = done.stdout.partition("\n\n")[0].splitlines()
    assert heading.split() == ["row", "work", "goal", "ours", "plain", "raw", "ratio"]
    wanted = set(rows.split(","))
    assert wanted == {line[:3].strip() for line in lines} - {""}
    assert any(line.endswith(("met", "MISSED")) for line in lines)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {str(line["row"]) for line in found["lines"]} == wanted
    assert all(line["ours"]["median"] >= 0 and line["ours"]["values"] for line in found["lines"])
    assert all(line["goals"] for line in found["lines"] if not line["work"].startswith("the same until"))
    others = ", ".join(str(number) for number in NUMBERS if str(number) not in wanted)
    assert f"rows {others}: not asked for" in found["left_out"]
    assert databases(urls) == []


def test_a_page_with_a_picture_is_written_and_json_is_printed(
    bench: CommandLine, urls: ServerUrls, tmp_path: Path
) -> None:
    files = ("--picture", tmp_path / "results.svg", "--page", tmp_path / "results.md")
    done = bench(*QUICK, "--rows", "9", "--json", "--results", tmp_path / "results.json", *files)
    assert json.loads(done.stdout) == json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| 9 | deleting a document" in text
    assert "](results.svg)" in text
    assert all(f"- {name}: " in text for name in ("date", "Python", "PostgreSQL", "pgvector", "mongod", "CPUs"))
    drawn = (tmp_path / "results.svg").read_text(encoding="utf-8")
    assert "process start to first answer" in drawn
    assert os.uname().nodename not in text
    assert databases(urls) == []


def test_without_matplotlib_the_command_says_how_to_get_the_picture(
    bench: CommandLine, urls: ServerUrls, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'matplotlib' else found(name, *a)\n"
    )
    bench.variables["PYTHONPATH"] += f"{os.pathsep}{hidden}"
    done = bench(*QUICK, "--rows", "9", "--picture", tmp_path / "results.svg")
    assert "make setup" in done.stdout
    assert not (tmp_path / "results.svg").exists()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_bench_leaves_no_databases(
    signum: signal.Signals, status: int, bench: CommandLine, urls: ServerUrls
) -> None:
    process = bench.start(*QUICK)
    until_at_work(urls)
    os.killpg(process.pid, signum)
    done = bench.finish(process, status=status)
    assert done.stderr.splitlines()[-1].startswith("interrupted")
    assert databases(urls) == []


def test_what_a_killed_bench_left_is_gone_after_the_next(bench: CommandLine, urls: ServerUrls) -> None:
    process = bench.start(*QUICK)
    until_at_work(urls)
    os.killpg(process.pid, signal.SIGKILL)
    bench.finish(process, status=-signal.SIGKILL)
    assert databases(urls) == [f"postgres {NAME}", f"mongo {NAME}"]
    workers = f"SELECT pid FROM pg_stat_activity WHERE datname = '{NAME}' AND backend_type = 'client backend'"
    until(lambda: not execute(urls, workers), "PostgreSQL has noticed", timeout_s=60)
    bench(*QUICK, "--rows", "9")
    assert databases(urls) == []


def test_a_bench_that_fails_leaves_no_databases(bench: CommandLine, urls: ServerUrls) -> None:
    process = bench.start(*QUICK)
    until_at_work(urls)
    execute(urls, f"DROP DATABASE {NAME} WITH (FORCE)")
    done = bench.finish(process, status=1)
    # An open connection says that it was closed, a new one that there is no such database.
    assert "PostgreSQL" in done.error
    assert databases(urls) == []


def test_a_bench_beside_another_is_refused(bench: CommandLine, urls: ServerUrls) -> None:
    process = bench.start(*QUICK)
    until_at_work(urls)
    done = bench(*QUICK, "--rows", "9", status=4)
    assert "another bench is at work" in done.error
    assert databases(urls) == [f"postgres {NAME}", f"mongo {NAME}"]
    os.killpg(process.pid, signal.SIGTERM)
    bench.finish(process, status=143)


def test_a_bench_from_another_database_of_the_server_is_refused_too(
    bench: CommandLine, urls: ServerUrls, foreign: str
) -> None:
    execute(urls, f"COMMENT ON DATABASE {NAME} IS 'made by the benchmark of ragstore, which drops it'")
    with closing(psycopg2.connect(foreign)):
        done = bench(*QUICK, "--rows", "9", status=4)
    assert "another bench is at work" in done.error
    assert databases(urls) == [f"postgres {NAME}"]


def test_databases_of_others_that_have_the_name_are_not_touched(
    bench: CommandLine, urls: ServerUrls, foreign: str
) -> None:
    done = bench(*QUICK, "--rows", "9", status=4)
    assert "that the bench did not make" in done.error
    assert databases(urls) == [f"postgres {NAME}"]
    execute(urls, f"DROP DATABASE {NAME}")
    with pymongo.MongoClient[dict[str, Any]](urls.mongo_url) as client:
        client[NAME].kept.insert_one({"value": 1})
        assert "that the bench did not make" in bench(*QUICK, "--rows", "9", status=4).error
        assert client[NAME].kept.count_documents({}) == 1
        client.drop_database(NAME)
    assert databases(urls) == []


def test_a_role_that_may_not_make_databases_is_told_what_to_do(tmp_path: Path, test_servers: Servers) -> None:
    with a_database_with_roles(test_servers) as roles:
        options = {"postgres_url": roles.owner_url, "mongo_url": test_servers.mongo_url}
        done = CommandLine(tmp_path, options, module=MODULE, variables=dict(PYTHONPATH))(*QUICK, status=1)
    assert f"'{roles.owner}' may not create the database" in done.error
    assert "CREATEDB" in done.hint
    assert "embedded" in done.hint


@pytest.mark.parametrize("rows", ["0", "11", "one", "1-3", ""])
def test_rows_that_there_are_not_are_refused_at_once(rows: str, bench: CommandLine) -> None:
    assert "are not rows" in bench(*QUICK, "--rows", rows, status=2).stderr


def test_a_file_that_cannot_be_written_is_refused_before_the_work(bench: CommandLine, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "results.json"):
        done = bench(*QUICK, "--results", path, status=2)
        assert "cannot write" in done.stderr
        assert done.stdout == ""
