"""A MongoDB of three members whose primary steps down or dies under an ingest."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

import ragstore
from ragstore.embedded.ports import LOOPBACK, a_free_port
from ragstore.errors import StoreUnavailableError
from ragstore.settings import Settings
from tests.support import servers
from tests.support.children import until
from tests.support.containers import MongoContainer
from tests.support.corpus import a_text, write_documents
from tests.support.fleet import a_process_home
from tests.support.oracle import Oracle
from tests.support.parts import execute, postgres_url
from tests.support.ready import a_direct_client, initiate, primary_of, until_mongo_answers
from tests.support.servers import Kind

N_MEMBERS, N_DOCUMENTS = 3, 40


@dataclass
class Member:
    """One of the three: how to kill it and how to start it again."""

    address: str
    kill: Callable[[], object]
    start: Callable[[], object]


@contextmanager
def members(kind: Kind) -> Iterator[list[Member]]:
    """Three of them, running and not yet a set."""
    with ExitStack() as cleaning:
        if kind == "containers":
            made = [MongoContainer(alone=False) for _ in range(N_MEMBERS)]
            for each in made:
                cleaning.callback(each.remove)
            with ThreadPoolExecutor(N_MEMBERS) as pool:
                for created in [pool.submit(each.create) for each in made]:
                    created.result()
            yield [Member(each.address, each.kill, each.start) for each in made]
            return
        home, programs, account = cleaning.enter_context(a_process_home())
        processes: dict[int, subprocess.Popen[bytes]] = {}
        cleaning.callback(kill_processes, processes)

        def start(port: int) -> None:
            data = home.path / f"member-{port}"
            account.own_folder(data)
            processes[port] = subprocess.Popen(
                [programs.mongod, "--replSet", "rs0", "--dbpath", data, "--port", str(port), "--bind_ip", LOOPBACK,
                 "--nounixsocket", "--quiet", "--oplogSize", "128", "--wiredTigerCacheSizeGB", "0.25"],
                stdout=subprocess.DEVNULL,
                **account.popen_options,
            )  # fmt: skip
            until_mongo_answers(f"{LOOPBACK}:{port}", as_primary=False)

        def member(port: int) -> Member:
            return Member(f"{LOOPBACK}:{port}", lambda: kill_process(processes[port]), lambda: start(port))

        ports = [a_free_port() for _ in range(N_MEMBERS)]
        for port in ports:
            start(port)
        yield [member(port) for port in ports]


def kill_processes(processes: dict[int, subprocess.Popen[bytes]]) -> None:
    for each in processes.values():
        kill_process(each)


def kill_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def replica_set(fleet_kind: Kind) -> Iterator[list[Member]]:
    with members(fleet_kind) as made:
        initiate([each.address for each in made])
        yield made


@pytest.fixture
def own_settings(replica_set: list[Member], settings: Settings) -> Iterator[Settings]:
    """PostgreSQL is the one that all tests share; MongoDB is the set, with a fresh database."""
    url = f"mongodb://{','.join(each.address for each in replica_set)}/?replicaSet=rs0"
    name = f"ragstore_test_{uuid4().hex[:12]}"
    with MongoClient[dict[str, Any]](url, tz_aware=True) as client:
        servers.migrate_mongo(postgres_url(settings), client[name])
        yield Settings(
            postgres_url=settings.postgres_url,
            mongo_url=url,
            mongo_database=name,
            grace_s=0,
            lease_ttl_s=5,
            batch_chunks=4,
        )
        client.drop_database(name)


def primary(replica_set: list[Member]) -> Member:
    def found() -> Member | None:
        address = primary_of([each.address for each in replica_set])
        return next((each for each in replica_set if each.address == address), None)

    member: Member = until(found, what="the set has a primary")
    return member


def step_down(member: Member) -> None:
    with a_direct_client(member.address) as client, suppress(PyMongoError):  # it may end our connection too
        client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=2)


def assert_an_ingest_survives(settings: Settings, folder: Path, fault: Callable[[], object]) -> None:
    state = write_documents(folder, {f"{i}.txt": a_text(i, 6) for i in range(N_DOCUMENTS)})
    with ragstore.open(settings) as rs, ThreadPoolExecutor(1) as pool:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
        ingest = pool.submit(rs.ingest, folder, collection="docs")
        published = "SELECT count(*) FROM ragstore.event WHERE action = 'added'"
        until(lambda: ingest.done() or execute(settings, published)[0][0] >= 4, what="a part is published")
        fault()
        assert not ingest.done()
        report = ingest.result(90)
        assert (report.added + report.unchanged, report.failed) == (N_DOCUMENTS, 0)
        assert rs.ingest(folder, collection="docs").unchanged == N_DOCUMENTS
        with MongoClient[dict[str, Any]](str(settings.mongo_url and settings.mongo_url.get_secret_value())) as client:
            Oracle(postgres_url(settings), client[settings.mongo_database]).assert_settled(state)


def test_an_ingest_goes_on_after_the_primary_stepped_down(
    replica_set: list[Member], own_settings: Settings, tmp_path: Path
) -> None:
    former = primary(replica_set)

    assert_an_ingest_survives(own_settings, tmp_path / "docs", lambda: step_down(former))
    assert primary(replica_set) is not former


def test_an_ingest_goes_on_after_the_primary_was_killed(
    replica_set: list[Member], own_settings: Settings, tmp_path: Path
) -> None:
    former = primary(replica_set)
    try:
        assert_an_ingest_survives(own_settings, tmp_path / "docs", former.kill)
        assert primary(replica_set) is not former
    finally:
        former.start()


def test_without_a_majority_writes_are_refused_as_unavailable_until_it_is_back(
    replica_set: list[Member], own_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "pump.txt").write_text("The pump needs oil.")
    lost = [each for each in replica_set if each is not primary(replica_set)]
    with ragstore.open(own_settings.model_copy(update={"connect_timeout_s": 1.0})) as rs:
        rs.ingest(tmp_path / "pump.txt", collection="docs")
        before = rs.query("pump", collection="docs")
        for each in lost:
            each.kill()
        try:
            with pytest.raises(StoreUnavailableError, match="MongoDB"):
                until(lambda: rs.delete(str(tmp_path / "pump.txt"), collection="docs") and False, what="it is refused")
        finally:
            for each in lost:
                each.start()
        assert before
        until(lambda: primary_of([each.address for each in replica_set]), what="the set has a primary again")
        rs.ingest(tmp_path / "pump.txt", collection="docs")
        assert [hit.text for hit in rs.query("pump", collection="docs")] == ["The pump needs oil."]
