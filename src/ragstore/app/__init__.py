"""The composition root: it builds pools and services from settings."""

from __future__ import annotations

from ragstore.app.store import Ragstore, open_ragstore

__all__ = ["Ragstore", "open_ragstore"]
