"""What the supervisor says about itself and its servers, in a file that other processes read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ragstore.embedded.files import read_json, write_private
from ragstore.embedded.home import SERVER_NAMES, Home

Phase = Literal["starting", "running", "stopping", "stopped", "failed"]


@dataclass(slots=True)
class ServerState:
    """One server as its supervisor last saw it; ``created`` as ``processes.started`` says it."""

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
