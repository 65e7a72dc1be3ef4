"""A second pair of databases, to restore into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support import servers
from tests.support.oracle import Oracle, State
from tests.support.parts import execute, postgres_url
from tests.support.servers import Servers


@dataclass
class Other:
    """A second pair of databases."""

    settings: Settings
    mongo: Database[dict[str, Any]]

    def open(self) -> Ragstore:
        return ragstore.open(self.settings)

    def names(self) -> list[str]:
        return [row[0] for row in execute(self.settings, "SELECT name FROM ragstore.collection ORDER BY 1")]

    def oracle(self, collection: str) -> Oracle:
        return Oracle(postgres_url(self.settings), self.mongo, collection)

    def assert_ok(self, collection: str, state: State) -> None:
        """Verify, and the judge that does not use it, find nothing."""
        with self.open() as rs:
            report = rs.verify(deep=True)
            assert report.ok, report.drift.as_dict()
        self.oracle(collection).assert_settled(state)

    def leftovers(self) -> list[str]:
        """Tables of restores that did not end."""
        return [
            row[0] for row in execute(self.settings, "SELECT relname FROM pg_class WHERE relname ~ '^data_restoring'")
        ]


@contextmanager
def another_pair(servers_: Servers, template: str, settings: Settings) -> Iterator[Other]:
    """Empty and migrated, on the same servers."""
    with servers.cloned_database(servers_, template) as url, servers.fresh_mongo_database(servers_) as mongo:
        servers.migrate_mongo(url, mongo)
        yield Other(settings.model_copy(update={"postgres_url": SecretStr(url), "mongo_database": mongo.name}), mongo)
