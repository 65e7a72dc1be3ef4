"""The application, PostgreSQL, MongoDB or all three end in the middle of each kind of work, and come back."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg2
import pytest
from pymongo import MongoClient

from ragstore.app import migrations
from ragstore.settings import Settings
from tests.support import children
from tests.support.app_process import COLLECTION, App, Failed, same
from tests.support.children import until
from tests.support.corpus import a_sentence, a_text, an_edited, write_documents
from tests.support.fleet import Controlled, Fleet, a_fleet
from tests.support.oracle import Oracle, State
from tests.support.servers import Kind

Victim = Literal["app", "postgres", "mongo", "everything"]
How = Literal["killed", "stopped"]

WITHIN_S = 60.0
"""After the servers answer again, an application that lived through it works by then, without a restart, however busy the
machine is."""

N_KEPT, N_WORKED_ON, N_DELETED, N_SENTENCES, N_QUESTIONS = 20, 120, 150, 6, 20
OPTIONS = {"grace_s": 0, "lease_ttl_s": 5, "batch_chunks": 4, "connect_timeout_s": 1, "log_level": "error"}


@dataclass
class Scene:
    """One pair of servers, an application on it, and documents: some are never touched, the others worked on."""

    fleet: Fleet
    settings: Settings
    folder: Path
    oracle: Oracle
    kept: State = field(default_factory=dict)
    live: State = field(default_factory=dict)
    app: App | None = None
    answers: Any = None
    round: int = 0
    is_whole: bool = True

    @property
    def running(self) -> App:
        """The application, started where it does not run."""
        if self.app is None:
            self.app = App(children.environment(self.settings, **OPTIONS), self.folder / "app.log")
        return self.app

    @property
    def questions(self) -> list[str]:
        """Half of them sentences that stand there, half of them mixed from two."""
        told = [a_sentence(f"kept {i} {i % N_SENTENCES}") for i in range(N_QUESTIONS)]
        half = N_QUESTIONS // 2
        return told[:half] + [" ".join(a.split()[:5] + b.split()[5:]) for a, b in zip(told[half:], told, strict=False)]

    @property
    def kept_names(self) -> list[str]:
        return [Path(document_id).name for document_id in self.kept]

    def ask(self) -> Any:
        return self.running.do("ask", self.questions, self.kept_names)

    def n_events(self) -> int:
        connection = psycopg2.connect(str(self.settings.postgres_url and self.settings.postgres_url.get_secret_value()))
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM ragstore.event WHERE revision IS NOT NULL")
            row = cursor.fetchone()
        connection.close()
        assert row is not None
        return int(row[0])

    def of(self, victim: Victim) -> list[Controlled]:
        servers = {"postgres": [self.fleet.postgres], "mongo": [self.fleet.mongo], "app": []}
        return servers.get(victim, [self.fleet.postgres, self.fleet.mongo])

    def mend(self) -> None:
        """After a test that failed half-way: everything runs, and only the untouched documents are there."""
        if self.app is not None:
            self.app.close()
            self.app = None
        for server in self.of("everything"):
            server.kill()
            server.start()
        shutil.rmtree(self.folder / "worked-on", ignore_errors=True)
        self.live = {}
        self.running.do("delete", *(self.oracle.snapshot().documents.keys() - self.kept.keys()))


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    if not shared.is_whole:
        shared.mend()
    shared.is_whole = False
    yield shared


@pytest.fixture(scope="module")
def shared(fleet_kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("restarts")
    with a_fleet(fleet_kind) as fleet:
        settings = Settings(postgres_url=fleet.postgres.url, mongo_url=fleet.mongo.url, **OPTIONS)
        migrations.apply(settings)
        with MongoClient[dict[str, Any]](fleet.mongo.url, tz_aware=True) as client:
            oracle = Oracle(fleet.postgres.url, client[settings.mongo_database], COLLECTION)
            made = Scene(fleet, settings, folder, oracle)
            try:
                texts = {f"kept-{i}.txt": a_text(f"kept {i}", N_SENTENCES) for i in range(N_KEPT)}
                made.kept = write_documents(folder / "kept", texts)
                report = made.running.do("ingest", str(folder / "kept"))
                assert report["added"] == N_KEPT
                made.answers = made.ask()
                assert all(len(hits) == 5 for hits in made.answers)
                yield made
            finally:
                if made.app is not None:
                    made.app.close()


# What the application is doing


def idle(scene: Scene) -> Callable[[], object]:
    """It has worked before, and holds connections to both servers."""
    scene.ask()
    repeat = adding(scene, 1)
    repeat()
    return scene.ask


def ingest(scene: Scene) -> Callable[[], object]:
    """It adds documents."""
    repeat = adding(scene, N_WORKED_ON)
    begin_and_wait(scene, "ingest", str(scene.folder / "worked-on"))
    return repeat


def update(scene: Scene) -> Callable[[], object]:
    """It brings documents up to date that were edited."""
    make_live(scene)
    for document_id, text in list(scene.live.items())[:N_WORKED_ON]:
        new = write_documents(Path(document_id).parent, {Path(document_id).name: an_edited(text, scene.round)})
        scene.live |= new
    begin_and_wait(scene, "ingest", str(scene.folder / "worked-on"))
    return lambda: scene.running.do("ingest", str(scene.folder / "worked-on"))


def delete(scene: Scene) -> Callable[[], object]:
    """It deletes documents, one after the other; those take less time than others, so they are more."""
    adding(scene, N_DELETED - len(scene.live), n_sentences=2)()
    ids = list(scene.live)
    for document_id in ids:
        Path(document_id).unlink()
    scene.live = {}
    begin_and_wait(scene, "delete", *ids)
    return lambda: scene.running.do("delete", *ids)


def query_load(scene: Scene) -> Callable[[], object]:
    """Four threads of it ask all the time."""
    scene.running.begin("load", scene.questions, scene.kept_names, 4)
    scene.running.until_answering()
    return scene.ask


WORK = {work.__name__: work for work in (idle, ingest, update, delete, query_load)}


def adding(scene: Scene, n: int, n_sentences: int = N_SENTENCES) -> Callable[[], object]:
    texts = {f"{scene.round}-{i}.txt": a_text(f"{scene.round} {i}", n_sentences) for i in range(n)}
    scene.live |= write_documents(scene.folder / "worked-on", texts)
    return lambda: scene.running.do("ingest", str(scene.folder / "worked-on"))


def make_live(scene: Scene) -> None:
    if len(scene.live) < N_WORKED_ON:
        adding(scene, N_WORKED_ON)()


def begin_and_wait(scene: Scene, work: str, *arguments: Any) -> None:
    """Let it begin, and return when some of it is published and the rest is not."""
    before, app = scene.n_events(), scene.running
    app.begin(work, *arguments)
    until(lambda: app.is_done() or scene.n_events() >= before + 2, what=f"{work} has published a part")


# What happens to it


def end(scene: Scene, victim: Victim, how: How) -> None:
    """End the victim, which all do at once where it is everything."""
    with ThreadPoolExecutor(3) as pool:
        ended = [pool.submit(server.kill if how == "killed" else server.stop) for server in scene.of(victim)]
        if victim in ("app", "everything"):
            assert scene.app is not None
            status = scene.app.end(signal.SIGKILL if how == "killed" else signal.SIGTERM)
            assert status == (-signal.SIGKILL if how == "killed" else 128 + signal.SIGTERM)
            scene.app.assert_told_no_trace()
            scene.app = None
        for each in ended:
            each.result()


def start(scene: Scene, victim: Victim) -> None:
    """Start the victim's servers again; an application is started by the next who needs it."""
    with ThreadPoolExecutor(2) as pool:
        for started in [pool.submit(server.start) for server in scene.of(victim)]:
            started.result()


def until_it_works(repeat: Callable[[], object], deadline: float) -> list[dict[str, Any]]:
    """Repeat until it works; returns the errors by then, each of which must say that it passes by itself."""
    errors: list[dict[str, Any]] = []
    while True:
        try:
            repeat()
            return errors
        except Failed as failed:
            errors.append(failed.told)
            assert_says_try_later(failed.told)
            assert time.monotonic() < deadline, f"still: {failed.told}"


def assert_says_try_later(told: dict[str, Any]) -> None:
    assert (told["class"], told["code"], told["retry"]) == ("StoreUnavailableError", "store.unavailable", "later"), told
    assert "ragstore status" in told["hint"], told


def assert_all_is_there(scene: Scene) -> None:
    """The same answers from the same nodes, nothing lost, nothing doubled, nothing left to do."""
    now = scene.ask()
    for question, before, after in zip(scene.questions, scene.answers, now, strict=True):
        assert same([before], [after]), question
    wanted = {**scene.kept, **scene.live}

    def is_settled() -> bool:
        # What a broken run staged is removed at the latest when its lease has run out.
        return not scene.oracle.settled_violations(wanted) or not scene.running.do("ingest", str(scene.folder / "kept"))

    until(is_settled, what="what broken runs left is gone", timeout_s=WITHIN_S)
    scene.oracle.assert_settled(wanted)
    scene.running.assert_told_no_trace()


VICTIMS = pytest.mark.parametrize("victim", ["app", "postgres", "mongo", "everything"])
HOW = pytest.mark.parametrize("how", ["killed", "stopped"])


@pytest.mark.on_both
@VICTIMS
@HOW
@pytest.mark.parametrize("work", ["ingest", "query_load"])
def test_whatever_ends_under_an_ingest_or_under_questions_comes_back_with_everything(
    scene: Scene, work: str, how: How, victim: Victim
) -> None:
    assert_it_comes_back(scene, work, how, victim)


@VICTIMS
@HOW
@pytest.mark.parametrize("work", ["idle", "update", "delete"])
def test_whatever_ends_under_other_work_comes_back_with_everything(
    scene: Scene, work: str, how: How, victim: Victim
) -> None:
    assert_it_comes_back(scene, work, how, victim)


def assert_it_comes_back(scene: Scene, work: str, how: How, victim: Victim) -> None:
    scene.round += 1
    repeat = WORK[work](scene)
    end(scene, victim, how)
    was_over = scene.app is not None and work != "idle" and scene.app.is_done()
    start(scene, victim)
    deadline = time.monotonic() + WITHIN_S
    assert not was_over, "it was over before anything happened to it"
    if scene.app is not None and work != "idle":
        finish(scene, work, victim, deadline)
    errors = until_it_works(repeat, deadline)
    if work == "idle":
        # The connections that were idle have ended, and nobody is told.
        assert errors == []
    assert_all_is_there(scene)
    scene.is_whole = True


def finish(scene: Scene, work: str, victim: Victim, deadline: float) -> None:
    """The end of what was under way, in an application that lived through it."""
    assert scene.app is not None
    if work == "query_load":
        scene.app.begin("go on")
    try:
        load = scene.app.result(timeout_s=deadline - time.monotonic())
    except Failed as failed:
        assert_says_try_later(failed.told)
        return
    if work == "query_load":
        assert load["wrong"] == []
        assert bool(load["errors"]) == (victim == "postgres")  # questions do without MongoDB
        for told in load["errors"]:
            assert_says_try_later(told)
