"""Databases before the first migration, and a folder of steps that a test may change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragstore.migrate import versions
from tests.support import servers
from tests.support.servers import Servers


@pytest.fixture
def empty_database(test_servers: Servers) -> Iterator[str]:
    with servers.cloned_database(test_servers, None) as url:
        yield url


@pytest.fixture
def own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PostgreSQL's part of a copy of the folder of steps, used instead of the real one."""
    copy = shutil.copytree(versions.folder(), tmp_path / "migrations")
    monkeypatch.setattr(versions, "folder", lambda: copy)
    return copy / "postgres"
