"""MongoDB client of a process, with explicit read and write concerns, on which the protocol relies."""

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
"""Amazon DocumentDB 5.0 reports the same."""

ANSWER_WITHIN_S = 60.0
"""For one command; the largest takes a second or two. After this time the server or network no longer answers."""


MAX_NAME_BYTES = 63
"""MongoDB's limit for the name of a database."""


def connect(url: str, *, timeout_s: float = 5.0, pool_size: int = 8) -> Client:
    """A client that connects when first used; options in the URL have priority over these.

    Args:
        timeout_s: seconds to look for a primary before StoreUnavailableError.
    """
    defaults: Document = {
        "appname": "ragstore",
        "serverSelectionTimeoutMS": round(timeout_s * 1000),
        "connectTimeoutMS": round(timeout_s * 1000),
        "socketTimeoutMS": round(ANSWER_WITHIN_S * 1000),
        "maxPoolSize": pool_size,
    }
    said = {name.lower() for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    # A limit for the whole operation excludes a limit for the socket.
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
    """Clients that a forked child may go on using: pymongo gives it fresh connections, but warns about others.

    The warning depends on the process that opened the topology. Keys are ``id``s, because clients of one server are
    equal.
    """
    clients: weakref.WeakValueDictionary[int, Client] = weakref.WeakValueDictionary()

    def begin_again() -> None:
        for client in clients.values():
            topology = getattr(client, "_topology", None)
            if topology is not None and hasattr(topology, "_pid"):
                topology._pid = None

    # Runs after pymongo's own hook, which was registered at its import.
    os.register_at_fork(after_in_child=begin_again)
    return clients


def database(client: Client, name: str) -> MongoDatabase:
    """The database with majority and journaled writes, and majority reads from the primary, whatever the URL says.

    Raises:
        UsageError: the name is not valid for a database.
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
    """Refuse a server that is too old, or that cannot acknowledge writes by a majority.

    Raises:
        StoreSetupError: it is no member of a replica set, its set was never initiated, or the URL is wrong.
        StoreUnavailableError: it does not answer, or has no primary at present.
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
