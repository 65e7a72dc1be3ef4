"""One operation in a process of its own: ``python -m tests.crash.child ingest FOLDER | delete ID…``.

The settings come from the environment; a failpoint named there kills the process on its way. ``FAILPOINTS_PASSED``
names a file to which every failpoint is written that the process passes; at the one in ``STOP_AT`` it stops itself, as
by SIGSTOP from outside, until it gets SIGCONT.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from ragstore.telemetry import failpoint
from ragstore.telemetry.failpoint import Failpoint

COLLECTION = "docs"
PASSED = "FAILPOINTS_PASSED"
STOP_AT = "STOP_AT"


def main() -> None:
    if PASSED in os.environ:
        _write_passed(Path(os.environ[PASSED]))
    if STOP_AT in os.environ:
        _stop_at(os.environ[STOP_AT])
    # Only now, because what they import takes the name of the function that was replaced.
    import ragstore
    from ragstore.mongo import nodes

    # Small, so that few nodes make several commands and a process can die between them.
    nodes.BATCH_NODES = nodes.BATCH_IDS = 7
    operation, *arguments = sys.argv[1:]
    with ragstore.open() as rs:
        if operation == "ingest":
            print(json.dumps(rs.ingest(*arguments, collection=COLLECTION).as_dict()))
        else:
            middle = len(arguments) // 2
            n_deleted = rs.delete(*arguments[:middle], collection=COLLECTION)
            n_deleted += rs.delete(*arguments[middle:], collection=COLLECTION)
            print(json.dumps(n_deleted))


def _write_passed(path: Path) -> None:
    with path.open("x"):
        pass

    def reached(passed: Failpoint) -> None:
        with path.open("a") as lines:
            lines.write(f"{passed}\n")

    failpoint.reached = reached


def _stop_at(name: str) -> None:
    left = [name]
    lock = threading.Lock()

    def reached(passed: Failpoint) -> None:
        with lock:
            if passed in left:
                left.remove(passed)
                os.kill(os.getpid(), signal.SIGSTOP)

    failpoint.reached = reached


if __name__ == "__main__":
    main()
