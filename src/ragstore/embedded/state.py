"""State file in which the supervisor reports on itself and its servers to other processes."""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ragstore.embedded import processes
from ragstore.embedded.home import SERVER_NAMES, Home, ServerName, read_json, write_private
from ragstore.errors import EmbeddedServerError

logger = logging.getLogger(__name__)


Phase = Literal["starting", "running", "stopping", "stopped", "failed"]


@dataclass(slots=True)
class ServerState:
    """One server as its supervisor last saw it; ``created`` is its ``processes.start_id``."""

    pid: int | None = None
    created: str | None = None
    port: int | None = None
    version: str | None = None
    ready: bool = False
    trouble: str = ""


@dataclass(slots=True)
class State:
    """Content of the file; only the lock, not this file, shows whether a supervisor runs."""

    phase: Phase = "starting"
    pid: int | None = None
    created: str | None = None
    servers: dict[str, ServerState] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    @property
    def all_ready(self) -> bool:
        """Whether the supervisor was running and all servers were ready when the file was written."""
        ready = {name for name, server in self.servers.items() if server.ready}
        return self.phase == "running" and ready >= set(SERVER_NAMES)


def load(home: Home) -> State:
    """The last state; an empty one if none was written or it cannot be parsed."""
    value = read_json(home.state)
    if value is None:
        return State(phase="stopped")
    try:
        servers = {name: ServerState(**each) for name, each in value.pop("servers").items()}
        return State(servers=servers, **value)
    except (TypeError, KeyError, AttributeError):
        return State(phase="stopped")


def save(home: Home, state: State) -> None:
    """Replace the file atomically."""
    write_private(home.state, json.dumps(asdict(state)))


class StateWriter:
    """Keeps the state and writes all of it at every change."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._state = State(pid=os.getpid(), created=processes.start_id(os.getpid()))
        self._write()

    def set_phase(self, phase: Phase) -> None:
        """Set the current phase; ``failed`` is kept, so that the starting process can read the reason."""
        with self._lock:
            if self._state.phase != "failed":
                self._state.phase = phase
                self._write()

    def fail(self, error: EmbeddedServerError) -> None:
        """Record why the supervisor gives up; only the first reason is kept."""
        with self._lock:
            if self._state.phase != "failed":
                self._state.phase = "failed"
                self._state.error = {"message": error.message, "hint": error.hint, "facts": error.facts}
                self._write()

    def set_server(self, name: ServerName, server: ServerState) -> None:
        with self._lock:
            self._state.servers[name] = server
            self._write()

    def _write(self) -> None:
        try:
            save(self._home, self._state)
        except OSError as error:
            # On a full disk the servers are more important than this file; readers also check the
            # ports, and the next change writes the whole state again.
            logger.error("action=state_not_written: %s", error)
