"""An application in a process of its own: opens a store once, does what its standard input says, and tells how it went.

``python -m tests.support.app_process``, its settings in the environment. Each line it reads and writes is one JSON object.
``App`` is the other side. What it cannot expect ends it with a traceback, which ``App`` takes for a defect.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ragstore.errors import ClosedError, StoreError
from tests.support.children import until

COLLECTION = "docs"
TOP_K = 5

Answers = list[list[tuple[str, float]]]
"""For each question the hits: node id and score."""


class Failed(Exception):
    """What the application was told to do ended with an error of ragstore's; ``told`` has its facts."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(f"{told['class']}: {told['message']}")
        self.told = told


class App:
    """The application as its user sees it; ``log`` is a file for its standard error."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as file:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def do(self, work: str, *arguments: Any, timeout_s: float = 60.0) -> Any:
        """Have it done; raises Failed when it ended with an error of ragstore's."""
        self.begin(work, *arguments)
        return self.result(timeout_s=timeout_s)

    def begin(self, work: str, *arguments: Any) -> None:
        """Have it begun; ``result`` must follow."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([work, *arguments]) + "\n")
        self._child.stdin.flush()

    def until_answering(self, n: int = 20) -> None:
        """Wait until so many questions of a load were answered."""
        while self._next(30)["answered"] < n:
            pass

    def result(self, timeout_s: float = 60.0) -> Any:
        """What came of it."""
        deadline = time.monotonic() + timeout_s
        while "answered" in (told := self._next(deadline - time.monotonic())):
            pass
        if "error" in told:
            raise Failed(told["error"])
        return told["done"]

    def is_done(self) -> bool:
        """Whether the work that was begun has ended well already."""
        return any(line is not None and "done" in line for line in list(self._lines.queue))

    def end(self, number: int) -> int:
        """Send it a signal, and return its exit status; what it still told is forgotten."""
        self._child.send_signal(number)
        try:
            status = self._child.wait(30)
        except subprocess.TimeoutExpired:
            self._child.send_signal(signal.SIGUSR1)  # it writes down where each of its threads is
            until(lambda: "most recent call first" in self._log.read_text(), what="it says where it hangs")
            self._child.kill()
            raise AssertionError(f"the application does not end:\n{self._log.read_text()[-6000:]}") from None
        assert self._child.stdin is not None
        self._child.stdin.close()
        return status

    def assert_told_no_trace(self) -> None:
        said = self._log.read_text()
        assert "Traceback" not in said, said[-4000:]

    def close(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self._child.poll() is None:
            self.end(signal.SIGKILL)

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                self._lines.put(json.loads(line))
        self._lines.put(None)

    def _next(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(0.1, timeout_s))
        except queue.Empty:
            raise AssertionError(f"the application does not answer; it said {self._log.read_text()[-2000:]}") from None
        assert line is not None, f"the application ended: {self._log.read_text()[-4000:]}"
        return line


# In the child


def _main() -> None:
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    import ragstore

    orders: queue.Queue[list[Any]] = queue.Queue()
    threading.Thread(target=_read_orders, args=(orders,), daemon=True).start()
    with ragstore.open() as rs:
        while True:
            work, *arguments = orders.get()
            try:
                _tell({"done": _WORKS[work](rs, orders, *arguments)})
            except StoreError as error:
                _tell({"error": _facts(error)})


def _read_orders(orders: queue.Queue[list[Any]]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    # Nobody is there any more who could want something.
    os.kill(os.getpid(), signal.SIGKILL)


def _tell(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


def _facts(error: StoreError) -> dict[str, Any]:
    facts = {"class": type(error).__name__, "code": error.code, "retry": str(error.retry)}
    return {**facts, "message": error.message, "hint": error.hint}


def _ingest(rs: Any, _orders: Any, *paths: str) -> dict[str, Any]:
    report: dict[str, Any] = rs.ingest(*paths, collection=COLLECTION).as_dict()
    return report


def _delete(rs: Any, _orders: Any, *document_ids: str) -> int:
    """One after the other, as an application does."""
    return sum(rs.delete(document_id, collection=COLLECTION) for document_id in document_ids)


def _ask(rs: Any, _orders: Any, questions: Sequence[str], names: Sequence[str]) -> Answers:
    """Args: names: of the files among which to look."""
    return [_hits(rs, question, names) for question in questions]


def _load(rs: Any, orders: queue.Queue[list[Any]], questions: Sequence[str], names: Sequence[str], n: int) -> Any:
    """Ask in so many threads until told to go on; returns how many answers, which errors, and which wrong answers."""
    expected = dict(zip(questions, _ask(rs, orders, questions, names), strict=True))
    n_answers, errors, wrong = [0] * n, [], []
    over = threading.Event()

    def keep_asking(own: int) -> None:
        while not over.is_set():
            question = questions[(n_answers[own] + own) % len(questions)]
            try:
                found = _hits(rs, question, names)
            except ClosedError:
                return  # the process ends
            except StoreError as error:
                errors.append(_facts(error))
                over.wait(0.005)
                continue
            n_answers[own] += 1
            if not same([found], [expected[question]]):
                wrong.append([question, found, expected[question]])

    threads = [threading.Thread(target=keep_asking, args=(own,), daemon=True) for own in range(n)]
    for thread in threads:
        thread.start()
    while True:
        try:
            orders.get(timeout=0.05)
            break
        except queue.Empty:
            _tell({"answered": sum(n_answers)})
    over.set()
    for thread in threads:
        thread.join()
    return {"answers": sum(n_answers), "errors": errors, "wrong": wrong}


def _hits(rs: Any, question: str, names: Sequence[str]) -> list[tuple[str, float]]:
    from ragstore.model.filters import Condition

    among = Condition("file_name", "in", list(names))
    # By vectors alone: how much a word weighs depends on the other documents too.
    found = rs.query(question, collection=COLLECTION, top_k=TOP_K, filters=among, mode="vector")
    return [(hit.node_id, hit.score) for hit in found]


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether these are the same nodes in the same order, with the same scores."""
    return len(one) == len(other) and all(
        [hit[0] for hit in mine] == [hit[0] for hit in theirs]
        and all(abs(a[1] - b[1]) <= 1e-6 for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(one, other, strict=True)
    )


_WORKS: dict[str, Callable[..., Any]] = {"ingest": _ingest, "delete": _delete, "ask": _ask, "load": _load}

if __name__ == "__main__":
    _main()
