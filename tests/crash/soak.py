"""Workers on one folder, killed, stopped and cut off at random together with their servers; judged again and again.

``python -m tests.crash.soak --minutes 15 --seed 1``. The seed decides what is done and when it is planned; how it meets
what the machine does at that moment is new each time. Readers look all the while, and what a round leaves behind is
where the next one begins. The last line says in JSON what was done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from pymongo import MongoClient

import ragstore
from ragstore import embedded
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint
from tests.crash.soak_readers import SoakReaders
from tests.crash.soak_worker import COLLECTION, signed
from tests.support import children
from tests.support.corpus import a_text
from tests.support.forwarder import Forwarder
from tests.support.oracle import Oracle
from tests.support.segments import OTHERS, SEGMENTS

N_WORKERS = 3
ROUND_S = 12.0
LEASE_S = 5
LONGER_THAN_LEASE_S = 6.5
OPTIONS: dict[str, Any] = {
    "env": "test",
    "lease_ttl_s": LEASE_S,
    "grace_s": 3,
    "batch_chunks": 20,
    "chunk_size": 32,
    "chunk_overlap": 0,
    "index_min_nodes": 40,
    "connect_timeout_s": 2,
}
BLOWS = {
    "kill worker": 8,
    "stop worker": 3,
    "cut network": 2,
    "silence network": 1,
    "kill postgres": 1,
    "kill mongo": 1,
}
"""What may happen next, and how likely that is beside the others."""

FAILPOINTS = [f for f in Failpoint if not f.startswith(("repair_", "direct_", "nodes_put"))]
"""Those that an ingest passes."""


@dataclass
class Report:
    """What a soak did and found.

    Args:
        kills: by kind, cuts and stops among them; a worker that was killed ``at a failpoint`` did it itself.
        operations: what workers did until then, also those who were killed later.
        looks: of readers, each at everything.
    """

    seed: int
    seconds: float = 0.0
    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    looks: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = "".join(f"{violation}\n" for violation in self.violations)
        facts = vars(self) | {"n_kills": self.kills.total(), "n_violations": len(self.violations)}
        return f"{found}soak: {json.dumps(facts | {'seconds': round(self.seconds, 1)}, sort_keys=True)}"


class Soak:
    """One soak on servers of its own."""

    def __init__(self, home: Path, seed: int) -> None:
        self.report = Report(seed)
        self._home = home
        self._folder, self._diary = home / "docs", home / "diary"
        self._chance = random.Random(seed)
        self._urls = embedded.ensure_running(home / "servers")
        self._settings = Settings(home=home / "servers", **OPTIONS)
        self._mongo: MongoClient[dict[str, Any]] = MongoClient(self._urls.mongo_url, serverSelectionTimeoutMS=2_000)
        self._oracle = Oracle(self._urls.postgres_url, self._mongo[self._settings.mongo_database], COLLECTION)
        self._networks = [Forwarder(self._urls.postgres_url), Forwarder(self._urls.mongo_url)]
        self._workers: dict[subprocess.Popen[str], float | None] = {}
        self._struck: set[subprocess.Popen[str]] = set()
        self._speak_at = 0.0
        self._n_started = 0

    def close(self) -> None:
        for worker in self._workers:
            children.kill(worker)
        for network in self._networks:
            network.close()
        self._mongo.close()
        embedded.stop(self._home / "servers")

    def run(self, seconds: float, tell: Callable[[Report], None]) -> Report:
        self._folder.mkdir()
        self._diary.touch()
        for i in range(5):
            (self._folder / f"{i}.txt").write_text(signed(a_text(i)))
        begun_at = time.monotonic()
        with ragstore.open(self._settings) as rs:
            rs.ingest(self._folder, collection=COLLECTION)
            bodies = self._mongo[self._settings.mongo_database][f"{COLLECTION}/data"]
            with SoakReaders(rs, self._oracle, bodies, self.report.looks, self.report.violations):
                while time.monotonic() < begun_at + seconds and not self.report.violations:
                    self._round(min(ROUND_S, begun_at + seconds - time.monotonic()))
                    self.report.rounds += 1
                    self.report.seconds = time.monotonic() - begun_at
                    self.report.operations = Counter(self._diary.read_text().split())
                    tell(self.report)
        return self.report

    # A round: everything at once, then quiet, then the verdict

    def _round(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        next_blow = time.monotonic() + self._chance.uniform(0.3, 1.5)
        while time.monotonic() < until:
            self._reap()
            while len(self._workers) < N_WORKERS:
                self._start(until - time.monotonic())
            if time.monotonic() >= next_blow:
                self._strike(until - time.monotonic())
                next_blow = time.monotonic() + self._chance.uniform(0.2, 1.2)
            time.sleep(0.01)
        self._end_workers()
        self._judge()

    def _start(self, seconds: float) -> None:
        self._n_started += 1
        options: dict[str, Any] = {"home": self._home / "servers", **OPTIONS}
        if self._chance.random() < 0.5:
            options |= {"postgres_url": self._networks[0].url, "mongo_url": self._networks[1].url}
            options |= {"mongo_database": self._settings.mongo_database}
        if self._chance.random() < 0.3:
            options["failpoint"] = f"{self._chance.choice(FAILPOINTS)}:{self._chance.randint(1, 4)}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAGSTORE_")}
        own = {f"RAGSTORE_{name.upper()}": str(value) for name, value in options.items()}
        seed = f"{self.report.seed} {self._n_started}"
        arguments = (str(self._folder), str(self._diary), seed, str(max(seconds, 1.0)))
        worker = children.start("tests.crash.soak_worker", *arguments, env=inherited | own | children.PYTHONPATH)
        self._workers[worker] = None

    def _strike(self, seconds_left: float) -> None:
        worker = self._chance.choice(list(self._workers))
        blow = self._chance.choices(list(BLOWS), list(BLOWS.values()))[0]
        network = self._chance.choice(self._networks)
        match blow:
            case "kill worker":
                self._struck.add(worker)
                worker.send_signal(signal.SIGKILL)
            case "stop worker":
                if self._workers[worker] is not None:
                    return
                # A long stop must end within the round: others are to meet what it does when it wakes up.
                for_s = LONGER_THAN_LEASE_S if seconds_left > LONGER_THAN_LEASE_S + 1 else 0.5
                worker.send_signal(signal.SIGSTOP)
                self._workers[worker] = time.monotonic() + for_s
                blow += " for longer than its lease" if for_s > LEASE_S else " for a moment"
            case "cut network":
                if network.cut() == 0:
                    return
            case "silence network":
                if network.hold() == 0:
                    network.release()
                    return
                self._speak_at = time.monotonic() + self._chance.choice([0.5, 2.0])
            case _:
                self._kill_server(blow.removeprefix("kill "))
        self.report.kills[blow] += 1

    def _kill_server(self, name: str) -> None:
        for server in embedded.status(self._home / "servers"):
            if server.name == name and server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)

    def _reap(self) -> None:
        if time.monotonic() >= self._speak_at:
            for network in self._networks:
                network.release()
        for worker, wake_at in list(self._workers.items()):
            if wake_at is not None and time.monotonic() >= wake_at:
                worker.send_signal(signal.SIGCONT)
                self._workers[worker] = None
            if worker.poll() is not None:
                self._ended(worker)

    def _end_workers(self) -> None:
        deadline = time.monotonic() + 60
        while self._workers:
            self._reap()
            if time.monotonic() > deadline:
                self.report.violations.append("a worker does not come to an end")
                return
            time.sleep(0.01)

    def _ended(self, worker: subprocess.Popen[str]) -> None:
        del self._workers[worker]
        _, err = worker.communicate()
        if worker.returncode == -signal.SIGKILL:
            if worker not in self._struck:
                self.report.kills["kill worker at a failpoint"] += 1
        elif worker.returncode != 0:
            self.report.violations.append(f"worker ended with {worker.returncode}: {err[-1500:]}")
        self._struck.discard(worker)

    # The verdict

    def _judge(self) -> None:
        """End what is under way as the next user would, and compare both stores with the folder."""
        embedded.ensure_running(self._home / "servers")
        state = {str(path): path.read_text() for path in self._folder.glob("*.txt")}
        with ragstore.open(self._settings) as rs:
            rs.ingest(self._folder, collection=COLLECTION)
            known = [d.document_id for d in rs.documents(COLLECTION)]
            known += [entry.document_id for entry in rs.quarantined(COLLECTION)]
            rs.delete(*[i for i in known if i not in state], collection=COLLECTION)
            self._end_waiting()
            rs.ingest(self._folder, collection=COLLECTION)
            self._end_waiting()
            rs.ingest(self._folder, collection=COLLECTION)
        self.report.violations += self._oracle.settled_violations(state)
        segments, others = self._sql(SEGMENTS), self._sql(OTHERS)
        if others or not all(is_there for _, is_there in segments):
            self.report.violations.append(f"segments: {segments}, left behind: {others}")

    def _end_waiting(self) -> None:
        """Let every lease run out and every grace period end."""
        self._sql("UPDATE ragstore.run SET lease_until = now() - interval '1 second'")
        self._sql("UPDATE ragstore.outbox SET not_before = now()")

    def _sql(self, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self._urls.postgres_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


def soak(seconds: float, seed: int, *, tell: Callable[[Report], None] = lambda _: None) -> Report:
    """Soak on servers started for it in a fresh folder, which is removed afterwards."""
    # Below /tmp itself, because PostgreSQL's unprivileged user cannot enter private folders.
    home = Path(tempfile.mkdtemp(prefix="ragstore-soak-", dir="/tmp"))
    home.chmod(0o755)
    running = Soak(home, seed)
    try:
        return running.run(seconds, tell)
    finally:
        running.close()
        shutil.rmtree(home, ignore_errors=True)


def _tell(report: Report) -> None:
    counts = f"{report.kills.total()} kills, {report.operations.total()} operations, {report.looks.total()} looks"
    print(f"{report.seconds:.0f} s: round {report.rounds}, {counts}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    report = soak(arguments.minutes * 60, arguments.seed, tell=_tell)
    print(report)
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
