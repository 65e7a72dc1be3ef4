"""The composition root: settings → pools → services."""

from __future__ import annotations

from ragstore.app.store import Ragstore, open_ragstore

__all__ = ["Ragstore", "open_ragstore"]
