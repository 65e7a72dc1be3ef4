"""Fixtures that every test may use: real servers, a fresh pair of databases each, and the opened store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import hypothesis
import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support import servers
from tests.support.kills import Kills
from tests.support.servers import Kind, Servers, Templates
from tests.support.tally import Tally

# A shared machine makes no promise about the time of one example. CI tries the same examples each time; others explore.
hypothesis.settings.register_profile("ragstore", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("ragstore")


_WITHOUT_SERVERS = Path(__file__).parent / "unit"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "on_both: a difference between servers could matter here, so it runs on each kind"
    )
    config.addinivalue_line("markers", "alone: needs the whole machine, so nothing runs beside it")
    config.pluginmanager.register(Tally())
    config.pluginmanager.register(Kills())
    if not hasattr(config, "workerinput"):
        named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
        servers.choose(start=not all(path.is_relative_to(_WITHOUT_SERVERS) for path in named))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        servers.stop()


def pytest_report_header() -> list[str]:
    return servers.header()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The stack's tests mostly wait for containers: one worker begins with them, and the others have work meanwhile."""
    items.sort(key=lambda item: not item.path.name.startswith("test_compose_"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("on_both"):
        scopes: dict[str, Literal["session", "module"]] = {"test_servers": "session", "fleet_kind": "module"}
        for name, scope in scopes.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, servers.kinds(), indirect=True, scope=scope)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No option of the person who runs the tests, no .env and no ragstore.toml reaches a test."""
    for name in list(os.environ):
        if name.startswith("RAGSTORE_") and not name.startswith("RAGSTORE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def templates() -> Iterator[Templates]:
    made = Templates()
    yield made
    made.close()


@pytest.fixture(scope="session")
def test_servers(request: pytest.FixtureRequest) -> Servers:
    """Servers that tests share; the marker ``on_both`` gives one kind after the other."""
    return servers.running(getattr(request, "param", None))


@pytest.fixture(scope="module")
def fleet_kind(request: pytest.FixtureRequest) -> Kind:
    """The kind of servers for tests that own some; the marker ``on_both`` gives one after the other."""
    kind: Kind = getattr(request, "param", None) or servers.kinds()[0]
    return kind


@pytest.fixture(scope="session")
def template_database(test_servers: Servers, templates: Templates) -> str:
    """Name of a migrated database to clone."""
    return templates.of(test_servers)


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
        # The files of tests are small: a second process would take longer to start than the first one to read them all.
        parse_processes=1,
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Ragstore]:
    """The opened store on a fresh pair of databases."""
    with ragstore.open(settings) as opened:
        yield opened
