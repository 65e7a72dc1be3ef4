"""Shows the main promise on real servers: kill everything in the middle, start again, lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from corpus import write_corpus
from pymongo import MongoClient

QUESTIONS = (
    "How do I make sure a file is closed even when an exception is raised?",
    "What does the yield expression do?",
    "How are default values of function parameters evaluated?",
    "Which package compares embeddings with cosine distance in PostgreSQL?",
    "How can I retry a function with exponential back-off?",
)
KILL_AFTER = 0.4
"""Share of the documents that are published when everything is killed."""


class Demo:
    """One run, in a home of its own that is removed at the end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.docs = home / "documents"
        # Small runs, so that there is a middle to kill in.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAGSTORE_")},
            "RAGSTORE_HOME": str(home / "servers"),
            "RAGSTORE_BATCH_CHUNKS": "100",
            "RAGSTORE_GRACE_S": "0",
        }

    def run(self) -> None:
        n_documents = write_corpus(self.docs)
        say(f"1. {n_documents} documents: the Python language reference and the manuals of the installed packages")
        say("2. ingesting them into PostgreSQL + pgvector and MongoDB …")
        self.ragstore("up")
        n_before = self.ingest_and_kill(n_documents)
        say(f"   … and killed with -9 after {n_before} of {n_documents}: the ingest, postgres and mongod")

        report = self.ragstore_json("ingest", str(self.docs))
        say(
            f"3. started again: {report['added']} added, {report['unchanged']} left alone, "
            f"{report['embedded']} chunks embedded in {report['seconds']:.1f} s"
        )
        check(report["added"] + report["unchanged"] + report["failed"] == n_documents, "documents are missing")
        check(report["unchanged"] >= n_before, "published documents were read again")
        check(report["failed"] == 0, "documents were set aside")

        before = self.answers()
        say("4. answers, each with its source:")
        for question, hits in zip(QUESTIONS, before, strict=True):
            check(bool(hits), f"no answer to {question!r}")
            best = hits[0]
            start, end = best["start_char"], best["end_char"]
            say(f"   {question}\n     → {Path(best['source']).name}, characters {start}-{end}: {excerpt(best['text'])}")

        self.kill_servers()
        again = self.answers()
        check(again == before, "the answers changed")
        counts = self.counts()
        check(counts["rows"] == counts["nodes"] == counts["distinct"], f"the stores disagree: {counts}")
        say("5. killed both servers with -9 once more, asked again: the same hits with the same scores")
        say(f"\nProved: after two kills of everything, {n_documents} documents are whole and none is doubled;")
        say(f"        {counts['rows']} rows in PostgreSQL, {counts['nodes']} nodes in MongoDB, the same ids.")

    def ingest_and_kill(self, n_documents: int) -> int:
        """Start an ingest, wait until a part is published, kill the ingest and both servers."""
        url = self.status()["postgres"]["url"]
        ingest = subprocess.Popen([*COMMAND, "ingest", str(self.docs)], env=self.environment, start_new_session=True)
        connection = psycopg2.connect(url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                while (n_published := n_documents_in(cursor)) < KILL_AFTER * n_documents:
                    check(ingest.poll() is None, f"the ingest ended by itself with {ingest.returncode}")
        finally:
            ingest.kill()
            ingest.wait()
            connection.close()
        self.kill_servers()
        return n_published

    def kill_servers(self) -> None:
        """SIGKILL to both servers, and to whatever of theirs is left."""
        victims = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.home) in argument for argument in process.info["cmdline"] or ())
            and not any(name in " ".join(process.info["cmdline"]) for name in ("demo.py", "ragstore.embedded"))
        ]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        check(len(victims) >= 2, "found no servers to kill")

    def answers(self) -> list[list[dict[str, Any]]]:
        return [self.ragstore_json("query", question, "-k", "5")["hits"] for question in QUESTIONS]

    def status(self) -> dict[str, Any]:
        return self.ragstore_json("status", "--show-secrets")

    def counts(self) -> dict[str, int]:
        """What both databases say for themselves."""
        status = self.status()
        with psycopg2.connect(status["postgres"]["url"]) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT node_id FROM ragstore.data_default")
            rows = [row[0] for row in cursor.fetchall()]
        connection.close()
        with MongoClient(status["mongo"]["url"]) as client:
            nodes = {entry["_id"] for entry in client[status["mongo"]["database"]]["default/data"].find({}, {"_id": 1})}
        check(set(rows) == nodes, "PostgreSQL and MongoDB hold other ids")
        return {"rows": len(rows), "distinct": len(set(rows)), "nodes": len(nodes)}

    def ragstore(self, *arguments: str) -> str:
        done = subprocess.run([*COMMAND, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        check(done.returncode == 0, f"ragstore {arguments[0]} left with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def ragstore_json(self, *arguments: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.ragstore(*arguments, "--json"))
        return result


COMMAND = [sys.executable, "-m", "ragstore"]


def n_documents_in(cursor: psycopg2.extensions.cursor) -> int:
    cursor.execute("SELECT count(*) FROM ragstore.document WHERE deleted_at IS NULL AND revision > 0")
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def say(line: str) -> None:
    print(line, flush=True)


def excerpt(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 70 else words[:69] + "…"


def check(holds: bool, failure: str) -> None:
    if not holds:
        raise SystemExit(f"demo failed: {failure}")


def main() -> None:
    started = time.monotonic()
    # Below /tmp itself: as root, PostgreSQL runs as a user who cannot enter root's own folders.
    home = Path(tempfile.mkdtemp(prefix="ragstore-demo-"))
    home.chmod(0o755)
    demo = Demo(home)
    try:
        demo.run()
    finally:
        with suppress(SystemExit):
            demo.ragstore("down")
        shutil.rmtree(home, ignore_errors=True)
    say(f"        {time.monotonic() - started:.0f} s. The same for your own documents: .venv/bin/ragstore ingest PATH")


if __name__ == "__main__":
    main()
