"""The MongoDB client of a process, with the concerns that the protocol relies on said explicitly."""

from __future__ import annotations

import os
import weakref
from functools import cache
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import InvalidName
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ragstore.errors import UsageError
from ragstore.mongo.errors import no_replica_set, translation

Document = dict[str, Any]
Client = MongoClient[Document]
MongoDatabase = Database[Document]

ANSWER_WITHIN_S = 60.0
"""For one command; the largest takes a second or two. What takes longer has fallen silent, server or network."""


MAX_NAME_BYTES = 63
"""Of a database's name, by MongoDB."""


def connect(url: str, *, timeout_s: float = 5.0, pool_size: int = 8) -> Client:
    """A client that connects when first used.

    Args:
        timeout_s: how long to look for a primary before StoreUnavailableError.
    """
    with translation():
        client: Client = MongoClient(
            url,
            appname="ragstore",
            serverSelectionTimeoutMS=round(timeout_s * 1000),
            connectTimeoutMS=round(timeout_s * 1000),
            socketTimeoutMS=round(ANSWER_WITHIN_S * 1000),
            maxPoolSize=pool_size,
            retryWrites=True,
            retryReads=True,
            tz_aware=True,
        )
    _forked().add(client)
    return client


@cache
def _forked() -> weakref.WeakSet[Client]:
    """Clients that a forked child may go on using: pymongo gives it fresh connections, and warns that others may not.

    The warning is decided by the process that the topology was opened in.
    """
    clients: weakref.WeakSet[Client] = weakref.WeakSet()

    def begin_again() -> None:
        for client in clients:
            topology = getattr(client, "_topology", None)
            if topology is not None and hasattr(topology, "_pid"):
                topology._pid = None

    # After pymongo's own, which is registered when it is imported.
    os.register_at_fork(after_in_child=begin_again)
    return clients


def database(client: Client, name: str) -> MongoDatabase:
    """The database, with majority and journaled writes and majority reads; a majority that is away is an error.

    Raises:
        UsageError: no database can have this name.
    """
    concern = WriteConcern(w="majority", j=True, wtimeout=round(ANSWER_WITHIN_S * 1000))
    try:
        if len(name.encode()) > MAX_NAME_BYTES:
            raise InvalidName(f"it has more than {MAX_NAME_BYTES} bytes")
        return client.get_database(name, write_concern=concern, read_concern=ReadConcern("majority"))
    except InvalidName as error:
        raise UsageError(
            f"no MongoDB database can be called {name!r}: {error}",
            hint="name it as 'show dbs' of mongosh does",
            name=name,
        ) from error


def check_replica_set(client: Client) -> None:
    """Refuse a server whose writes a majority cannot acknowledge.

    Raises:
        StoreSetupError: it stands alone.
    """
    with translation():
        hello = client.admin.command("hello")
    # A router of a sharded cluster names no set; the shards behind it are sets.
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise no_replica_set()
