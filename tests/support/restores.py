"""Moments of a pair of databases, taken and put back as a person would who has backups of each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg2
from pymongo.database import Database

from ragstore.settings import Settings
from tests.support.children import until
from tests.support.parts import postgres_url
from tests.support.servers import Servers

Contents = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Moment:
    """What both databases held at one time: a copy of PostgreSQL's, and the documents of MongoDB's."""

    postgres: str
    mongo: Contents


@dataclass
class Backups:
    """Takes and restores moments; whoever is connected to PostgreSQL then is thrown out, as by any restore."""

    servers: Servers
    database: str
    mongo: Database[dict[str, Any]]
    _copies: list[str] = field(default_factory=list)

    def take(self) -> Moment:
        name = f"ragstore_test_{uuid4().hex[:12]}"
        self._execute(f'ALTER DATABASE "{self.database}" ALLOW_CONNECTIONS false')
        until(self._nobody_is_connected, what="nobody is connected")
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.database}"')
        self._execute(f'ALTER DATABASE "{self.database}" ALLOW_CONNECTIONS true')
        self._copies.append(name)
        return Moment(name, {each: list(self.mongo[each].find()) for each in self.mongo.list_collection_names()})

    def _nobody_is_connected(self) -> bool:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        return not self._execute(ended, self.database)

    def restore(self, *, postgres: Moment | None = None, mongo: Moment | None = None) -> None:
        if postgres is not None:
            self._execute(f'DROP DATABASE "{self.database}" WITH (FORCE)')
            self._execute(f'CREATE DATABASE "{self.database}" TEMPLATE "{postgres.postgres}"')
        if mongo is not None:
            for name in self.mongo.list_collection_names():
                self.mongo.drop_collection(name)
            for name, documents in mongo.mongo.items():
                if documents:
                    self.mongo[name].insert_many(documents)

    def close(self) -> None:
        for name in self._copies:
            self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.servers.postgres_url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


@contextmanager
def backups_of(servers: Servers, settings: Settings, mongo: Database[dict[str, Any]]) -> Iterator[Backups]:
    made = Backups(servers, urlsplit(postgres_url(settings)).path.removeprefix("/"), mongo)
    try:
        yield made
    finally:
        made.close()
