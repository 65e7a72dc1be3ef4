"""The state as the supervisor's threads write it."""

from __future__ import annotations

import logging
import os
import threading

from ragstore.embedded import processes
from ragstore.embedded.home import Home, ServerName
from ragstore.embedded.state import Phase, ServerState, State, save
from ragstore.errors import EmbeddedServerError

logger = logging.getLogger(__name__)


class Board:
    """One state, written whole at every change."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._state = State(pid=os.getpid(), created=processes.started(os.getpid()))
        self._write()

    def enter(self, phase: Phase) -> None:
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

    def tell(self, name: ServerName, server: ServerState) -> None:
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
