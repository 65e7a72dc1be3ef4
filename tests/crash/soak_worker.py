"""One worker of the soak: ``python -m tests.crash.soak_worker FOLDER DIARY SEED SECONDS``.

It changes files in the folder, which others do too, brings the collection up to date, notes each thing it did in the
diary, and expects to be killed at any moment. A file appears whole or not at all, and says itself what all of it is.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from pathlib import Path

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import RagstoreError, Retry
from tests.support.corpus import a_text, an_edited

COLLECTION = "docs"
MOST_FILES = 25


def signed(body: str) -> str:
    """A text that begins with the digest of its words, so that whoever reads it whole can tell."""
    return f"Digest {digest_of(body)}.\n\n{body}"


def digest_of(body: str) -> str:
    return hashlib.blake2b(" ".join(body.split()).encode(), digest_size=8).hexdigest()


def is_signed(text: str) -> bool:
    """Whether this is a whole signed text; white space does not count."""
    head, _, body = text.partition(". ")
    return head == f"Digest {digest_of(body)}"


class Worker:
    """Changes files at random."""

    def __init__(self, rs: Ragstore, folder: Path, diary: Path, chance: random.Random) -> None:
        self._rs = rs
        self._folder = folder
        self._diary = diary
        self._chance = chance

    def step(self) -> None:
        files = sorted(self._folder.glob("*.txt"))
        operations = {"change": self._change, "rename": self._rename, "delete": self._remove, "touch": self._touch}
        weights = {"add": 4, "change": 6, "rename": 3, "delete": 2, "touch": 1}
        operation = self._chance.choices(list(weights), list(weights.values()))[0]
        if len(files) < 3 or (operation == "add" and len(files) < MOST_FILES):
            self._add()
            self._note("add")
        elif operation != "add":
            try:
                operations[operation](self._chance.choice(files))
                self._note(operation)
            except FileNotFoundError:
                # Another worker was faster.
                return
        if self._chance.random() < 0.7:
            self._rs.ingest(self._folder, collection=COLLECTION)
            self._note("ingest")

    def _note(self, operation: str) -> None:
        with self._diary.open("a") as diary:
            diary.write(f"{operation}\n")

    def _add(self) -> None:
        for _ in range(self._chance.randint(1, 3)):
            name = f"{self._chance.getrandbits(48):012x}.txt"
            self._write(self._folder / name, a_text(name, self._chance.choice([4, 12, 30])))

    def _change(self, path: Path) -> None:
        body = path.read_text().partition("\n\n")[2]
        self._write(path, an_edited(body, self._chance.random()))

    def _rename(self, path: Path) -> None:
        path.rename(self._folder / f"{self._chance.getrandbits(48):012x}.txt")

    def _remove(self, path: Path) -> None:
        path.unlink()
        self._rs.delete(str(path), collection=COLLECTION)

    def _touch(self, path: Path) -> None:
        os.utime(path)

    def _write(self, path: Path, body: str) -> None:
        # Hidden files are not listed, so nobody ever reads half a text.
        unfinished = path.with_name(f".{os.getpid()}-{path.name}")
        unfinished.write_text(signed(body))
        unfinished.replace(path)


def main() -> None:
    folder, diary, seed, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    chance = random.Random(seed)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with ragstore.open() as rs:
                worker = Worker(rs, folder, diary, chance)
                while time.monotonic() < until:
                    worker.step()
        except RagstoreError as error:
            # A server that is killed under the worker is worth another try; anything else is a defect.
            if error.retry is not Retry.LATER:
                raise


if __name__ == "__main__":
    main()
