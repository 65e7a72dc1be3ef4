"""The process that keeps both servers running: ``python -m ragstore.embedded.supervisor HOME``."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from ragstore.embedded.account import servers_account
from ragstore.embedded.board import Board
from ragstore.embedded.credentials import CredentialStore
from ragstore.embedded.home import Home, as_embedded_error
from ragstore.embedded.lock import SupervisorLock
from ragstore.embedded.mongo import MongoServer
from ragstore.embedded.postgres import PostgresServer
from ragstore.embedded.programs import find_programs, readable_programs
from ragstore.embedded.watch import Watch
from ragstore.errors import EmbeddedServerError

_LOOK_EVERY_S = 2.0
_OPEN_FILES = 64_000

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Supervise one home until a SIGTERM; the exit status is 1 when a server could not be started."""
    parser = argparse.ArgumentParser(prog="python -m ragstore.embedded.supervisor")
    parser.add_argument("home", type=Path)
    parser.add_argument("--lock-fd", type=int, help="an inherited lock; the supervisor then leaves its parent")
    options = parser.parse_args(arguments)
    home = Home.at(options.home)
    if options.lock_fd is None:
        home.make()
        lock = SupervisorLock.acquire(home.lock) or parser.exit(1, f"{home.path} has a supervisor already\n")
    else:
        lock = SupervisorLock.inherit(home.lock, options.lock_fd)
        _leave_parent()
    # The lock stays held until the process is gone.
    return _supervise(home, lock)


def _leave_parent() -> None:
    """Go on in a process whose parent is init, so that the starting process never has to reap it."""
    if os.fork():
        os._exit(0)


def _supervise(home: Home, lock: SupervisorLock) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _prepare_process(home)
    stop = threading.Event()
    _on_signals(stop)
    board = Board(home)
    failed = threading.Event()

    def give_up(error: EmbeddedServerError) -> None:
        board.fail(error)
        logger.error("action=gave_up: %s", error)
        failed.set()
        stop.set()

    watches: list[Watch] = []
    try:
        watches = _watches(home, board)
    except EmbeddedServerError as error:
        give_up(error)
    except OSError as error:
        give_up(as_embedded_error(error, home.path))
    threads = [threading.Thread(target=_guarded, args=(watch, give_up)) for watch in watches]
    for thread in threads:
        thread.start()
    board.enter("running")
    while not stop.wait(_LOOK_EVERY_S):
        if not lock.is_in_place():
            logger.warning("action=home_removed: the servers are stopped")
            break
    _stop_all(board, watches, threads)
    return 1 if failed.is_set() else 0


def _prepare_process(home: Home) -> None:
    os.umask(0o077)
    os.chdir(home.path)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # Variables of libpq would change how the supervisor connects, e.g. demand TLS.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _on_signals(stop: threading.Event) -> None:
    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    def go_on(_number: int, _frame: FrameType | None) -> None:
        pass

    signal.signal(signal.SIGTERM, ask_to_stop)
    # A starting process may have ignored it, and that is inherited; ends of servers would go unseen.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Handled, not ignored: what is ignored would be ignored by the servers too.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, go_on)


def _watches(home: Home, board: Board) -> list[Watch]:
    """In the order in which they are stopped."""
    account = servers_account(home)
    home.check_room()
    programs = readable_programs(find_programs(), account, home)
    credentials = CredentialStore(home)
    return [
        Watch(MongoServer(home, programs.mongod, account, credentials), home, account, credentials, board),
        Watch(PostgresServer(home, programs.postgres_bin, account, credentials), home, account, credentials, board),
    ]


def _guarded(watch: Watch, give_up: Callable[[EmbeddedServerError], None]) -> None:
    """Run a watch; whatever it did not expect ends the supervisor, which then says so."""
    try:
        watch.run(give_up)
    except Exception as error:
        logger.exception("action=watch_failed")
        give_up(
            EmbeddedServerError(f"the supervisor failed: {error!r}", hint="see logs/supervisor.log under RAGSTORE_HOME")
        )


def _stop_all(board: Board, watches: list[Watch], threads: list[threading.Thread]) -> None:
    board.enter("stopping")
    for watch, thread in zip(watches, threads, strict=True):
        watch.stop()
        thread.join()
        watch.sweep()
    board.enter("stopped")
    logger.info("action=stopped")


if __name__ == "__main__":
    sys.exit(main())
