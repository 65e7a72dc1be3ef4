"""Fixtures that every test may use: real servers, a fresh pair of databases each, and the opened store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support import servers
from tests.support.servers import Servers

# A shared machine makes no promise about the time of one example. CI tries the same examples each time; others explore.
hypothesis.settings.register_profile("ragstore", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("ragstore")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        servers.choose()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        servers.stop()


def pytest_report_header() -> str:
    return servers.header()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No option of the person who runs the tests, no .env and no ragstore.toml reaches a test."""
    for name in list(os.environ):
        if name.startswith("RAGSTORE_") and not name.startswith("RAGSTORE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def test_servers() -> Servers:
    return servers.running()


@pytest.fixture(scope="session")
def template_database(test_servers: Servers) -> Iterator[str]:
    with servers.migrated_template(test_servers) as name:
        yield name


@pytest.fixture
def postgres_database(test_servers: Servers, template_database: str) -> Iterator[str]:
    """URL of a fresh, migrated PostgreSQL database."""
    with servers.cloned_database(test_servers, template_database) as url:
        yield url


@pytest.fixture
def mongo_database(test_servers: Servers) -> Iterator[Database[dict[str, Any]]]:
    """A fresh, empty MongoDB database."""
    with servers.fresh_mongo_database(test_servers) as database:
        yield database


@pytest.fixture
def settings(test_servers: Servers, postgres_database: str, mongo_database: Database[dict[str, Any]]) -> Settings:
    """Settings for a fresh, migrated pair of databases that nothing else uses."""
    servers.migrate_mongo(postgres_database, mongo_database)
    return Settings(
        postgres_url=postgres_database,
        mongo_url=test_servers.mongo_url,
        mongo_database=mongo_database.name,
        grace_s=0,
        lease_ttl_s=5,
        env="test",
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Ragstore]:
    """The opened store on a fresh pair of databases."""
    with ragstore.open(settings) as opened:
        yield opened
