"""Waiting for servers until they can be used, and making replica sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
import pymongo
from pymongo.errors import PyMongoError

from tests.support.children import until

_START_S = 60.0


def _nothing() -> None:
    """For a server whose end shows in the waiting alone."""


def until_postgres_answers(url: str, *, alive: Callable[[], None] = _nothing, refused_is_fine: bool = False) -> None:
    """Wait for a session, or with ``refused_is_fine`` for a server that turns us away by name."""

    def answers() -> bool:
        alive()
        try:
            psycopg2.connect(url, connect_timeout=5).close()
        except psycopg2.OperationalError as error:
            return refused_is_fine and "password authentication failed" in str(error)
        return True

    until(answers, what="PostgreSQL answers", timeout_s=_START_S)


def until_mongo_answers(address: str, *, as_primary: bool = True, login: dict[str, Any] | None = None) -> None:
    """Wait for a member, or with ``as_primary`` for one that takes writes."""
    with a_direct_client(address, login) as client:

        def answers() -> bool:
            try:
                hello = client.admin.command("hello")
            except PyMongoError:
                return False
            return bool(hello["isWritablePrimary"]) or not as_primary

        until(answers, what=f"the MongoDB at {address} answers", timeout_s=_START_S)


def initiate(addresses: Sequence[str]) -> None:
    """Make these members a replica set, and wait until one of them takes writes."""
    members = [{"_id": i, "host": address} for i, address in enumerate(addresses)]
    with a_direct_client(addresses[0]) as client:
        # Elections of a test must not take the ten seconds of the default.
        settings = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200}
        client.admin.command({"replSetInitiate": {"_id": "rs0", "members": members, "settings": settings}})
    until(lambda: primary_of(addresses) is not None, what="there is a primary", timeout_s=_START_S)


def primary_of(addresses: Sequence[str]) -> str | None:
    """The member that takes writes, if there is one."""
    for address in addresses:
        with a_direct_client(address) as client:
            try:
                if client.admin.command("hello")["isWritablePrimary"]:
                    return address
            except PyMongoError:
                continue
    return None


def a_direct_client(address: str, login: dict[str, Any] | None = None) -> pymongo.MongoClient[dict[str, Any]]:
    """Of this one member, whatever it is in its set."""
    return pymongo.MongoClient(
        f"mongodb://{address}/", directConnection=True, serverSelectionTimeoutMS=500, **(login or {})
    )
