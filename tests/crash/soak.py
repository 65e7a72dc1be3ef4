"""Workers on one folder, killed and stopped at random together with their servers; both stores are judged again and again.

``python -m tests.crash.soak --minutes 15 --seed 1``. The seed decides what is done and when it is planned; how it meets
what the machine does at that moment is new each time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import OperationalError
from pymongo import MongoClient
from pymongo.errors import PyMongoError

import ragstore
from ragstore import embedded
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint
from tests.crash.soak_worker import COLLECTION, is_signed, signed
from tests.support import children
from tests.support.corpus import a_text
from tests.support.oracle import Oracle, Snapshot

N_WORKERS = 3
ROUND_S = 9.0
OPTIONS: dict[str, Any] = {
    "env": "test",
    "lease_ttl_s": 5,
    "grace_s": 3,
    "batch_chunks": 20,
    "chunk_size": 32,
    "chunk_overlap": 0,
    "index_min_nodes": 40,
    "connect_timeout_s": 2,
}
INDEX = """
SELECT c.index_state, i.indisvalid FROM ragstore.collection c LEFT JOIN pg_class r
    ON r.relname = 'data_' || c.name || '_embedding_idx' LEFT JOIN pg_index i ON i.indexrelid = r.oid
"""


@dataclass
class Report:
    """What a soak did and found."""

    seed: int
    rounds: int = 0
    steps: int = 0
    looks: int = 0
    done: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        done = ", ".join(f"{n} x {what}" for what, n in sorted(self.done.items()))
        found = "".join(f"\n  {violation}" for violation in self.violations)
        return (
            f"seed {self.seed}: {self.rounds} rounds, {self.steps} steps finished, {self.looks} looks by a reader; "
            f"{done}; {len(self.violations)} violations{found}"
        )


class Soak:
    """One soak on servers of its own."""

    def __init__(self, home: Path, seed: int) -> None:
        self.report = Report(seed)
        self._home = home
        self._folder = home / "docs"
        self._chance = random.Random(seed)
        self._urls = embedded.ensure_running(home / "servers")
        self._settings = Settings(home=home / "servers", **OPTIONS)
        self._mongo: MongoClient[dict[str, Any]] = MongoClient(self._urls.mongo_url, serverSelectionTimeoutMS=2_000)
        self._oracle = Oracle(self._urls.postgres_url, self._mongo[self._settings.mongo_database], COLLECTION)
        self._workers: dict[subprocess.Popen[str], float | None] = {}
        self._n_started = 0

    def close(self) -> None:
        for worker in self._workers:
            children.kill(worker)
        self._mongo.close()
        embedded.stop(self._home / "servers")

    def run(self, seconds: float) -> Report:
        self._folder.mkdir()
        for i in range(5):
            (self._folder / f"{i}.txt").write_text(signed(a_text(i)))
        with ragstore.open(self._settings) as rs:
            rs.ingest(self._folder, collection=COLLECTION)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.report.violations:
            self._round(min(ROUND_S, until - time.monotonic()))
            self.report.rounds += 1
        return self.report

    # A round: everything at once, then quiet, then the verdict

    def _round(self, seconds: float) -> None:
        over = threading.Event()
        reader = threading.Thread(target=self._read, args=(over,), daemon=True)
        reader.start()
        until = time.monotonic() + seconds
        next_blow = time.monotonic() + self._chance.uniform(0.3, 1.5)
        while time.monotonic() < until:
            self._reap()
            while len(self._workers) < N_WORKERS:
                self._start(until - time.monotonic())
            if time.monotonic() >= next_blow:
                self._strike()
                next_blow = time.monotonic() + self._chance.uniform(0.2, 1.2)
            time.sleep(0.01)
        self._end_workers()
        over.set()
        reader.join()
        self._judge()

    def _start(self, seconds: float) -> None:
        self._n_started += 1
        options: dict[str, Any] = {"home": self._home / "servers", **OPTIONS}
        if self._chance.random() < 0.3:
            options["failpoint"] = f"{self._chance.choice(list(Failpoint))}:{self._chance.randint(1, 4)}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAGSTORE_")}
        own = {f"RAGSTORE_{name.upper()}": str(value) for name, value in options.items()}
        arguments = (str(self._folder), f"{self.report.seed} {self._n_started}", str(max(seconds, 1.0)))
        worker = children.start("tests.crash.soak_worker", *arguments, env=inherited | own | children.PYTHONPATH)
        self._workers[worker] = None

    def _strike(self) -> None:
        worker = self._chance.choice(list(self._workers))
        blow = self._chance.choices(["kill worker", "stop worker", "kill postgres", "kill mongo"], [8, 3, 1, 1])[0]
        match blow:
            case "kill worker":
                worker.send_signal(signal.SIGKILL)
            case "stop worker":
                if self._workers[worker] is not None:
                    return
                worker.send_signal(signal.SIGSTOP)
                self._workers[worker] = time.monotonic() + self._chance.choice([0.2, 1.0, 6.5])
            case _:
                self._kill_server(blow.removeprefix("kill "))
        self.report.done[blow] += 1

    def _kill_server(self, name: str) -> None:
        for server in embedded.status(self._home / "servers"):
            if server.name == name and server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)

    def _reap(self) -> None:
        for worker, wake_at in list(self._workers.items()):
            if wake_at is not None and time.monotonic() >= wake_at:
                worker.send_signal(signal.SIGCONT)
                self._workers[worker] = None
            if worker.poll() is not None:
                self._ended(worker)

    def _end_workers(self) -> None:
        deadline = time.monotonic() + 60
        while self._workers:
            for worker in list(self._workers):
                worker.send_signal(signal.SIGCONT)
            self._reap()
            if time.monotonic() > deadline:
                self.report.violations.append("a worker does not come to an end")
                return
            time.sleep(0.01)

    def _ended(self, worker: subprocess.Popen[str]) -> None:
        del self._workers[worker]
        out, err = worker.communicate()
        self.report.done["worker started"] += 1
        if worker.returncode == 0:
            self.report.steps += int(out)
        elif worker.returncode != -signal.SIGKILL:
            self.report.violations.append(f"worker ended with {worker.returncode}: {err[-1500:]}")

    # The judges

    def _read(self, over: threading.Event) -> None:
        while not over.wait(0.05):
            try:
                seen = self._oracle.snapshot()
                wrong = _torn(seen)
                missing = self._without_body(seen)
                if missing:
                    # Only what is live still: the grace period may have ended while a server was away.
                    still = {row.node_id for row in self._oracle.snapshot().rows}
                    wrong += [f"live node without body: {node_id}" for node_id in missing & still]
            except (OperationalError, psycopg2.InterfaceError, PyMongoError):
                continue
            self.report.looks += 1
            self.report.violations += wrong

    def _without_body(self, seen: Snapshot) -> set[str]:
        ids = {row.node_id for row in seen.rows}
        data = self._mongo[self._settings.mongo_database][f"{COLLECTION}/data"]
        return ids - {body["_id"] for body in data.find({"_id": {"$in": list(ids)}}, {"_id": 1})}

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
        if self._sql(INDEX) not in ([("ready", True)], [("none", None)]):
            self.report.violations.append(f"vector index: {self._sql(INDEX)}")

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


def _torn(seen: Snapshot) -> list[str]:
    """Documents that are not whole, as one reader sees them."""
    wrong = [
        f"row of a document that is not live: {r.node_id}" for r in seen.rows if r.document_id not in seen.documents
    ]
    for document_id, shown in seen.documents.items():
        rows = seen.of(document_id)
        if len(rows) != shown.n_nodes or not is_signed(" ".join(" ".join(row.text for row in rows).split())):
            wrong.append(f"torn document: {document_id} at revision {shown.revision}, {len(rows)} of {shown.n_nodes}")
    return wrong


def soak(seconds: float, seed: int) -> Report:
    """Soak on servers started for it in a fresh folder, which is removed afterwards."""
    # Below /tmp itself, because PostgreSQL's unprivileged user cannot enter private folders.
    home = Path(tempfile.mkdtemp(prefix="ragstore-soak-", dir="/tmp"))
    home.chmod(0o755)
    running = Soak(home, seed)
    try:
        return running.run(seconds)
    finally:
        running.close()
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    report = soak(arguments.minutes * 60, arguments.seed)
    print(report)
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
