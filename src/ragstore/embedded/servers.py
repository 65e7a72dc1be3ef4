"""Start, stop and status of the embedded servers, for callers in other packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ragstore.embedded import credentials, state
from ragstore.embedded.credentials import ServerUrls
from ragstore.embedded.home import SERVER_NAMES, Home, embedded_errors, log_tail, open_private, rotate_log
from ragstore.embedded.lock import SupervisorLock, is_ending, is_held
from ragstore.embedded.ports import answers
from ragstore.errors import EmbeddedServerError

if TYPE_CHECKING:
    import psutil

_POLL_S = 0.02
_N_SPAWNS = 3
_KILLED_GRACE_S = 5.0
_PACKAGES_FOLDER = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """Status of one server; ``version`` only while it runs, ``port`` also afterwards."""

    name: Literal["postgres", "mongo"]
    running: bool
    pid: int | None
    port: int | None
    version: str | None
    log: Path
    data: Path


def ensure_running(home: Path, *, timeout_s: float = 60.0, starting: Callable[[], None] | None = None) -> ServerUrls:
    """Start the servers if they do not run, and return their URLs when both can be used.

    Several processes may call it at the same time; if a call is interrupted, the start continues.

    Args:
        starting: called before a start, not if the servers run already.

    Raises:
        EmbeddedServerError: they cannot run on this machine, or are not ready in time; the start then
            continues and a later call finds its result.
    """
    place = Home.at(home)
    with embedded_errors(place.path):
        ready = _urls_if_ready(place)
        if ready is None and starting is not None:
            starting()
        return ready or _start(place, timeout_s)


def stop(home: Path, *, timeout_s: float = 30.0) -> bool:
    """Stop the supervisor and both servers, MongoDB first, and return when all have ended.

    Args:
        timeout_s: time for the supervisor to end before it is killed; the servers then get
            time of their own and are killed last, which does not damage their data.

    Returns:
        False if nothing was running.
    """
    place = Home.at(home)
    if not place.lock.exists():
        return False
    with embedded_errors(place.path):
        was_running, lock = _end_supervisor(place, timeout_s)
        with lock:
            return _end_servers(place) or was_running


def status(home: Path) -> list[ServerStatus]:
    """Status of both servers, with or without a running supervisor."""
    from ragstore.embedded import processes

    place = Home.at(home)
    with embedded_errors(place.path):
        known = credentials.load(place)
        servers = state.load(place).servers
    statuses = []
    for name in SERVER_NAMES:
        server = servers.get(name, state.ServerState())
        running = processes.find(server.pid, server.created) is not None
        statuses.append(
            ServerStatus(
                name=name,
                running=running,
                pid=server.pid if running else None,
                port=known.port(name) if known else None,
                version=server.version if running else None,
                log=place.log(name),
                data=place.data(name),
            )
        )
    return statuses


def remembered_urls(home: Path) -> ServerUrls | None:
    """The URLs of the last start, also if the servers do not run; None before the first start."""
    place = Home.at(home)
    with embedded_errors(place.path):
        known = credentials.load(place)
    return known.urls if known else None


def _urls_if_ready(home: Home) -> ServerUrls | None:
    """The URLs if both servers answer and a running supervisor reports that both are ready; else None."""
    reported = state.load(home)
    if not reported.all_ready or reported.pid is None or is_ending(reported.pid) or not is_held(home.lock):
        return None
    known = credentials.load(home)
    if known and all(answers(name, known.port(name)) for name in SERVER_NAMES):
        return known.urls
    return None


def _start(home: Home, timeout_s: float) -> ServerUrls:
    home.make()
    deadline = time.monotonic() + timeout_s
    n_spawns = 0
    while time.monotonic() < deadline:
        lock = SupervisorLock.acquire(home.lock)
        if lock:
            with lock:
                if n_spawns:
                    _raise_failure(home, state.load(home), last=n_spawns == _N_SPAWNS)
                _spawn_supervisor(home, lock)
                n_spawns += 1
        urls = _urls_if_ready(home)
        if urls:
            return urls
        time.sleep(_POLL_S)
    raise _not_ready(home, state.load(home), timeout_s)


def _spawn_supervisor(home: Home, lock: SupervisorLock) -> None:
    """Start a supervisor that has our lock from its first moment, and is not our child process."""
    state.save(home, state.State())
    rotate_log(home.log("supervisor"))
    path = os.pathsep.join([str(_PACKAGES_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: a module in the caller's working folder must not replace one of ours.
    python = [sys.executable, "-P", "-m", "ragstore.embedded.supervisor"]
    with open_private(home.log("supervisor")) as log:
        starter = subprocess.Popen(
            [*python, str(home.path), "--lock-fd", str(lock.fd)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fd],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    # The starter forks the supervisor and ends at once, so this waits only for the start of Python.
    starter.wait()


def _raise_failure(home: Home, reported: state.State, *, last: bool) -> None:
    """Raise the error for which the supervisor that we started has ended.

    Without an error it was killed; then a new start is tried, unless this was the last try.
    """
    if reported.error:
        raise EmbeddedServerError(reported.error["message"], hint=reported.error["hint"], **reported.error["facts"])
    if reported.phase in ("stopping", "stopped"):
        raise EmbeddedServerError(
            f"the servers in {home.path} were stopped while they started",
            hint="run `ragstore up` again",
            home=str(home.path),
        )
    if last:
        log = home.log("supervisor")
        raise EmbeddedServerError(
            f"the supervisor of {home.path} ended without a reason; the last lines of {log}: {log_tail(log)}",
            hint=f"see {log}",
            home=str(home.path),
            log=str(log),
        )


def _not_ready(home: Home, reported: state.State, timeout_s: float) -> EmbeddedServerError:
    late = [name for name in SERVER_NAMES if not (name in reported.servers and reported.servers[name].ready)]
    log = home.log(late[0] if late else "supervisor")
    trouble = next((server.trouble for server in reported.servers.values() if server.trouble), "")
    reason = trouble or f"the last lines of {log}: {log_tail(log)}"
    return EmbeddedServerError(
        f"the servers in {home.path} are not ready after {timeout_s:g} s "
        f"(waiting for {', '.join(late) or 'an answer'}); {reason}",
        hint=f"the start goes on: run `ragstore status` in a while, and see {log}",
        home=str(home.path),
        log=str(log),
        late=late,
    )


def _end_supervisor(home: Home, timeout_s: float) -> tuple[bool, SupervisorLock]:
    """Stop the supervisor, and take its lock when it has ended; the flag says whether one was running."""
    from ragstore.embedded import processes

    asked: dict[tuple[int, signal.Signals], psutil.Process] = {}
    deadline = time.monotonic() + timeout_s
    while True:
        lock = SupervisorLock.acquire(home.lock)
        if lock:
            # The lock is released shortly before the process has ended.
            processes.end(asked.values(), [(signal.SIGKILL, _KILLED_GRACE_S)])
            return bool(asked), lock
        reported = state.load(home)
        supervisor = processes.find(reported.pid, reported.created)
        overdue_s = time.monotonic() - deadline
        if overdue_s > _KILLED_GRACE_S:
            raise EmbeddedServerError(
                f"{home.lock} is held by a process that is not the supervisor named in {home.state}",
                hint=f"find it with `fuser {home.lock}` and end it",
                home=str(home.path),
            )
        number = signal.SIGTERM if overdue_s < 0 else signal.SIGKILL
        if supervisor and (supervisor.pid, number) not in asked:
            asked[supervisor.pid, number] = supervisor
            processes.end([supervisor], [(number, 0.0)])
        time.sleep(_POLL_S)


def _end_servers(home: Home) -> bool:
    """End servers that a killed supervisor left running; True if there were any."""
    from ragstore.embedded import processes
    from ragstore.embedded.mongo import MongoServer
    from ragstore.embedded.postgres import PostgresServer

    found = False
    for server in (MongoServer, PostgresServer):
        data = home.data(server.name)
        leftovers = processes.processes_in(data, server.program) if data.exists() else []
        processes.end(leftovers, server.stop_steps)
        found = found or bool(leftovers)
    return found
