"""Embedded servers: PostgreSQL and MongoDB run by ragstore itself in a home folder, for users without servers."""

from __future__ import annotations

from ragstore.embedded.credentials import ServerUrls
from ragstore.embedded.home import default_home
from ragstore.embedded.servers import ServerStatus, ensure_running, remembered_urls, status, stop

__all__ = [
    "ServerStatus",
    "ServerUrls",
    "default_home",
    "ensure_running",
    "remembered_urls",
    "status",
    "stop",
]
