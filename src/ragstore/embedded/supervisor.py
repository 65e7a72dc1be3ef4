"""Supervisor process that keeps both servers running: ``python -m ragstore.embedded.supervisor HOME``."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil

from ragstore.embedded import processes
from ragstore.embedded.account import Account, servers_account
from ragstore.embedded.credentials import CredentialStore
from ragstore.embedded.home import Home, ServerName, as_embedded_error, log_tail, open_private, rotate_log
from ragstore.embedded.lock import SupervisorLock
from ragstore.embedded.mongo import MongoServer
from ragstore.embedded.ports import is_free
from ragstore.embedded.postgres import PostgresServer
from ragstore.embedded.processes import StopSteps
from ragstore.embedded.programs import find_programs, readable_programs
from ragstore.embedded.state import ServerState, StateWriter
from ragstore.errors import EmbeddedServerError

_LOOK_EVERY_S = 2.0
_OPEN_FILES = 64_000
_READY_POLL_S = 0.03
_ADOPTED_POLL_S = 0.2
_N_FIRST_TRIES = 4
_BACK_OFF_FIRST_S = 0.1
_BACK_OFF_LAST_S = 10.0
logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Supervise one home until a SIGTERM; the exit status is 1 if a server could not be started."""
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
    # The lock is held until the process ends.
    return _supervise(home, lock)


def _leave_parent() -> None:
    """Continue in a child process of init, so that the starting process never has to wait for its end."""
    if os.fork():
        os._exit(0)


def _supervise(home: Home, lock: SupervisorLock) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _prepare_process(home)
    stop = threading.Event()
    _on_signals(stop)
    state_writer = StateWriter(home)
    failed = threading.Event()

    def give_up(error: EmbeddedServerError) -> None:
        state_writer.fail(error)
        logger.error("action=gave_up: %s", error)
        failed.set()
        stop.set()

    watches: list[Watch] = []
    try:
        watches = _watches(home, state_writer)
    except EmbeddedServerError as error:
        give_up(error)
    except OSError as error:
        give_up(as_embedded_error(error, home.path))
    threads = [threading.Thread(target=_guarded, args=(watch, give_up)) for watch in watches]
    for thread in threads:
        thread.start()
    state_writer.set_phase("running")
    while not stop.wait(_LOOK_EVERY_S):
        if not lock.is_in_place():
            logger.warning("action=home_removed: the servers are stopped")
            break
    _stop_all(state_writer, watches, threads)
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
    # The starting process may ignore this signal, and children inherit that; the end of a server would not be seen.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Handled, not ignored: the servers would inherit ignored signals.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, go_on)


def _watches(home: Home, state_writer: StateWriter) -> list[Watch]:
    """The watches of both servers, in the order in which they are stopped."""
    account = servers_account(home)
    home.check_room()
    programs = readable_programs(find_programs(), account, home)
    credentials = CredentialStore(home)
    return [
        Watch(MongoServer(home, programs.mongod, account, credentials), home, account, credentials, state_writer),
        Watch(
            PostgresServer(home, programs.postgres_bin, account, credentials), home, account, credentials, state_writer
        ),
    ]


def _guarded(watch: Watch, give_up: Callable[[EmbeddedServerError], None]) -> None:
    """Run a watch; an unexpected error ends the supervisor, which reports it."""
    try:
        watch.run(give_up)
    except Exception as error:
        logger.exception("action=watch_failed")
        give_up(
            EmbeddedServerError(f"the supervisor failed: {error!r}", hint="see logs/supervisor.log under RAGSTORE_HOME")
        )


def _stop_all(state_writer: StateWriter, watches: list[Watch], threads: list[threading.Thread]) -> None:
    state_writer.set_phase("stopping")
    for watch, thread in zip(watches, threads, strict=True):
        watch.stop()
        thread.join()
        watch.sweep()
    state_writer.set_phase("stopped")
    logger.info("action=stopped")


class Watch:
    """Keeps one server running until ``stop``; ``run`` is for a thread of its own."""

    def __init__(
        self, server: Server, home: Home, account: Account, credentials: CredentialStore, state_writer: StateWriter
    ) -> None:
        self._server = server
        self._home = home
        self._account = account
        self._credentials = credentials
        self._state_writer = state_writer
        self._log = home.log(server.name)
        self._log_start = 0
        self._stopping = threading.Event()
        self._running: Running | None = None

    def run(self, give_up: Callable[[EmbeddedServerError], None]) -> None:
        """Keep the server running; gives up if the first start fails repeatedly, but retries a later start for ever."""
        n_failures, was_ready = 0, False
        while not self._stopping.is_set():
            try:
                self._running = self._adopt() or self._start()
                if self._until_ready(self._running):
                    n_failures, was_ready = 0, True
                    self._running.wait()
                    self._report_end()
            except EmbeddedServerError as error:
                n_failures += 1
                logger.error("action=start_failed server=%s times=%d: %s", self._server.name, n_failures, error)
                if not was_ready and n_failures >= _N_FIRST_TRIES:
                    give_up(error)
                    return
                self._state_writer.set_server(self._server.name, ServerState(trouble=error.message))
                self._stopping.wait(back_off_s(n_failures))

    def stop(self) -> None:
        """Stop the server by its stop steps, the last of which kills it; ``run`` then returns."""
        self._stopping.set()
        if self._running:
            processes.end([self._running.process], self._server.stop_steps)

    def sweep(self) -> None:
        """End processes that still use the data; call it after ``run`` has returned."""
        processes.end(self._leftovers(), self._server.stop_steps)
        self._state_writer.set_server(self._server.name, ServerState(port=self._port))

    @property
    def _port(self) -> int:
        return self._credentials.current.port(self._server.name)

    def _leftovers(self) -> list[psutil.Process]:
        if not self._server.data.exists():
            return []
        return processes.processes_in(self._server.data, self._server.program)

    def _adopt(self) -> Running | None:
        """The main process that a killed supervisor left, if it has the arguments of a new start; others are ended."""
        leftovers = self._leftovers()
        arguments = self._server.command(self._port)[1:]
        for process in leftovers:
            try:
                if process.cmdline()[1:] == arguments:
                    logger.info("action=adopted server=%s pid=%d", self._server.name, process.pid)
                    return Running(process)
            except psutil.Error:
                continue
        # Sessions of a killed PostgreSQL, or a server with a different port or other options.
        steps = self._server.stop_steps if _has_main(leftovers, self._server.data) else ((signal.SIGKILL, 5.0),)
        processes.end(leftovers, steps)
        return None

    def _start(self) -> Running:
        try:
            self._server.prepare()
            return self._spawn()
        except OSError as error:
            raise as_embedded_error(error, self._home.path) from error

    def _spawn(self) -> Running:
        port = self._port
        if not is_free(port):
            port = self._credentials.move_port(self._server.name)
            logger.warning("action=port_moved server=%s port=%d: the former is taken", self._server.name, port)
        rotate_log(self._log)
        with open_private(self._log) as log:
            self._log_start = log.tell()
            child = subprocess.Popen(
                self._server.command(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._server.data,
                **self._account.popen_options,
            )
        logger.info("action=started server=%s pid=%d port=%d", self._server.name, child.pid, port)
        return Running(psutil.Process(child.pid), child)

    def _until_ready(self, running: Running) -> bool:
        """Wait until the server is ready, without a time limit, because recovery after a crash can take long.

        Returns:
            False if ``stop`` was called.
        """
        process = running.process
        state = ServerState(pid=process.pid, created=running.created, port=self._port)
        self._state_writer.set_server(self._server.name, state)
        while not running.has_ended():
            if self._stopping.is_set():
                processes.end([process], self._server.stop_steps)
                return False
            version = self._server.probe()
            if version:
                state.version, state.ready = version, True
                self._state_writer.set_server(self._server.name, state)
                logger.info("action=ready server=%s pid=%d version=%s", self._server.name, process.pid, version)
                return True
            self._stopping.wait(_READY_POLL_S)
        if self._stopping.is_set():
            return False
        raise self._ended_early()

    def _ended_early(self) -> EmbeddedServerError:
        tail = log_tail(self._log, start=self._log_start)
        return EmbeddedServerError(
            f"{self._server.program} does not start in {self._home.path}; the last lines of {self._log}: {tail}",
            hint=f"see {self._log}",
            home=str(self._home.path),
            log=str(self._log),
            tail=tail,
        )

    def _report_end(self) -> None:
        self._state_writer.set_server(self._server.name, ServerState(port=self._port))
        if not self._stopping.is_set():
            logger.warning("action=ended server=%s: it is started again", self._server.name)


def back_off_s(n_failures: int) -> float:
    """Seconds to wait after this many consecutive failures."""
    return min(_BACK_OFF_FIRST_S * 2.0 ** (n_failures - 1), _BACK_OFF_LAST_S)


def _has_main(found: list[psutil.Process], data: Path) -> bool:
    for process in found:
        try:
            if str(data) in process.cmdline():
                return True
        except psutil.Error:
            continue
    return False


class Running:
    """The main process of a server: our child process, or an adopted one."""

    def __init__(self, process: psutil.Process, child: subprocess.Popen[bytes] | None = None) -> None:
        self.process = process
        self.created = processes.start_id(process.pid)
        self._child = child

    def has_ended(self) -> bool:
        """Whether the process has ended; a child is then reaped."""
        if self._child:
            return self._child.poll() is not None
        return not processes.is_alive(self.process)

    def wait(self) -> None:
        """Wait for the end of the process: the kernel reports it for a child, an adopted process is polled."""
        if self._child:
            self._child.wait()
            return
        while not self.has_ended():
            time.sleep(_ADOPTED_POLL_S)


class Server(Protocol):
    """Interface of a database server that can be watched."""

    name: ServerName
    program: str
    stop_steps: StopSteps
    data: Path

    def command(self, port: int) -> list[str]:
        """Program and arguments, among them the path of the data folder."""

    def prepare(self) -> None:
        """Make the data if there is none; called only while no process uses it."""

    def probe(self) -> str | None:
        """The version if it can be used, else None."""


if __name__ == "__main__":
    sys.exit(main())
