"""What the supervisor says about itself and its servers, in a file that other processes read."""

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
    """One server as its supervisor last saw it; ``created`` as ``processes.start_id`` says it."""

    pid: int | None = None
    created: str | None = None
    port: int | None = None
    version: str | None = None
    ready: bool = False
    trouble: str = ""


@dataclass(slots=True)
class State:
    """The whole file; the lock, not this, says whether a supervisor lives."""

    phase: Phase = "starting"
    pid: int | None = None
    created: str | None = None
    servers: dict[str, ServerState] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    @property
    def all_ready(self) -> bool:
        """Whether every server of a running supervisor was ready when it last looked."""
        ready = {name for name, server in self.servers.items() if server.ready}
        return self.phase == "running" and ready >= set(SERVER_NAMES)


def load(home: Home) -> State:
    """The last state; an empty one where none was written or it cannot be understood."""
    value = read_json(home.state)
    if value is None:
        return State(phase="stopped")
    try:
        servers = {name: ServerState(**each) for name, each in value.pop("servers").items()}
        return State(servers=servers, **value)
    except (TypeError, KeyError, AttributeError):
        return State(phase="stopped")


def save(home: Home, state: State) -> None:
    """Replace the file at once."""
    write_private(home.state, json.dumps(asdict(state)))


class StateWriter:
    """One state, written whole at every change."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._state = State(pid=os.getpid(), created=processes.start_id(os.getpid()))
        self._write()

    def set_phase(self, phase: Phase) -> None:
        """Say what the supervisor does now; ``failed`` stays, so that the starting process can read why."""
        with self._lock:
            if self._state.phase != "failed":
                self._state.phase = phase
                self._write()

    def fail(self, error: EmbeddedServerError) -> None:
        """Say why the supervisor gives up; the first reason counts."""
        with self._lock:
            if self._state.phase != "failed":
                self._state.phase = "failed"
                self._state.error = {"message": error.message, "hint": error.hint, "facts": error.facts}
                self._write()

    def set_server(self, name: ServerName, server: ServerState) -> None:
        """Say how one server is."""
        with self._lock:
            self._state.servers[name] = server
            self._write()

    def _write(self) -> None:
        try:
            save(self._home, self._state)
        except OSError as error:
            # On a full disk the servers matter more than what is said about them; readers ask the
            # ports too, and the next change writes the whole state again.
            logger.error("action=state_not_written: %s", error)
