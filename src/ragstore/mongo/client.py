"""The MongoDB client of a process, with the concerns that the protocol relies on said explicitly."""

from __future__ import annotations

import os
import weakref
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from pymongo import MongoClient, ReadPreference
from pymongo.database import Database
from pymongo.errors import InvalidName
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ragstore.errors import StoreError, StoreSetupError, UsageError
from ragstore.mongo.diagnosis import diagnosis, no_set
from ragstore.mongo.errors import translation

Document = dict[str, Any]
Client = MongoClient[Document]
MongoDatabase = Database[Document]

MIN_VERSION, MIN_WIRE_VERSION = "5.0", 13
"""Also what Amazon DocumentDB 5.0 says of itself."""

ANSWER_WITHIN_S = 60.0
"""For one command; the largest takes a second or two. What takes longer has fallen silent, server or network."""


MAX_NAME_BYTES = 63
"""Of a database's name, by MongoDB."""


def connect(url: str, *, timeout_s: float = 5.0, pool_size: int = 8) -> Client:
    """A client that connects when first used; what the URL says wins over what is said here.

    Args:
        timeout_s: how long to look for a primary before StoreUnavailableError.
    """
    defaults: Document = {
        "appname": "ragstore",
        "serverSelectionTimeoutMS": round(timeout_s * 1000),
        "connectTimeoutMS": round(timeout_s * 1000),
        "socketTimeoutMS": round(ANSWER_WITHIN_S * 1000),
        "maxPoolSize": pool_size,
    }
    said = {name.lower() for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    # One limit on a whole operation leaves no room for another on a part of it.
    said |= {"sockettimeoutms"} if "timeoutms" in said else set()
    ours = {name: value for name, value in defaults.items() if name.lower() not in said}
    if "maxPoolSize" in ours and "minpoolsize" in said:
        del ours["maxPoolSize"]
    with translation():
        client: Client = MongoClient(url, tz_aware=True, **ours)
    _forked()[id(client)] = client
    return client


@cache
def _forked() -> weakref.WeakValueDictionary[int, Client]:
    """Clients that a forked child may go on using: pymongo gives it fresh connections, and warns that others may not.

    The warning is decided by the process that opened the topology. Kept by ``id``: clients of one server are equal.
    """
    clients: weakref.WeakValueDictionary[int, Client] = weakref.WeakValueDictionary()

    def begin_again() -> None:
        for client in clients.values():
            topology = getattr(client, "_topology", None)
            if topology is not None and hasattr(topology, "_pid"):
                topology._pid = None

    # After pymongo's own, which is registered when it is imported.
    os.register_at_fork(after_in_child=begin_again)
    return clients


def database(client: Client, name: str) -> MongoDatabase:
    """The database, with majority and journaled writes and majority reads of the primary, whatever the URL says.

    Raises:
        UsageError: no database can have this name.
    """
    concern = WriteConcern(w="majority", j=True, wtimeout=round(ANSWER_WITHIN_S * 1000))
    try:
        if len(name.encode()) > MAX_NAME_BYTES:
            raise InvalidName(f"it has more than {MAX_NAME_BYTES} bytes")
        return client.get_database(
            name, write_concern=concern, read_concern=ReadConcern("majority"), read_preference=ReadPreference.PRIMARY
        )
    except InvalidName as error:
        raise UsageError(
            f"no MongoDB database can be called {name!r}: {error}",
            hint="name it as 'show dbs' of mongosh does",
            name=name,
        ) from error


def check_server(client: Client, url: str) -> None:
    """Refuse a server that is too old, or whose writes a majority cannot acknowledge.

    Raises:
        StoreSetupError: it stands alone, its set was never made, or the URL says it wrong.
        StoreUnavailableError: it does not answer, or has no primary just now.
    """
    try:
        with translation():
            hello = client.admin.command("hello")
    except StoreError as error:
        found = diagnosis(url, error)
        if found is error:
            raise
        raise found from error
    refused = no_set(hello)
    if refused is not None:
        raise refused
    if hello.get("maxWireVersion", 0) < MIN_WIRE_VERSION:
        with translation():
            version = client.server_info()["version"]
        raise StoreSetupError(
            f"MongoDB is {version}, ragstore needs {MIN_VERSION} or newer",
            hint=f"upgrade the server to MongoDB {MIN_VERSION} or newer, then run 'ragstore migrate apply'",
        )
