"""Why no primary was found: each server that the URL names is asked by itself what it is."""

from __future__ import annotations

import re
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from ragstore.errors import StoreError, StoreSetupError, StoreUnavailableError
from ragstore.mongo.errors import HINT_TLS, no_replica_set, translated

_ASK_MS = 1500
_HOSTS = re.compile(r"^(mongodb(?:\+srv)?)://(?:([^@/?]*)@)?[^/?]*(.*)$", re.DOTALL)
_OTHER_SET = re.compile(r"set named '([^']*)' but this node belongs to a set named '([^']*)'")


def diagnosis(url: str, error: StoreError) -> StoreError:
    """What is wrong with the servers or the URL, if they say so; else the error as it is."""
    if not isinstance(error, StoreUnavailableError) and "replica set" not in error.message:
        return error
    try:
        hosts = parse_uri(url)["nodelist"]
    except PyMongoError:
        return error
    found = [_asked(url, host, port or 27017) for host, port in hosts]
    return next((each for each in found if isinstance(each, StoreSetupError)), None) or next(
        (each for each in found if each is not None), error
    )


def _asked(url: str, host: str, port: int) -> StoreError | None:
    try:
        with _direct(url, host, port) as client:
            hello: dict[str, Any] = client.admin.command("hello")
    except PyMongoError as error:
        return _of_answer(url, host, port, error)
    if hello.get("isreplicaset") and "setName" not in hello:
        return no_replica_set("the server's replica set was never made", hint="run rs.initiate() on it, once")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        return no_replica_set()
    if not hello.get("isWritablePrimary", True):
        return StoreUnavailableError(
            f"MongoDB: the replica set {hello['setName']} has no primary that can be reached",
            hint=f"its members call themselves {', '.join(hello.get('hosts', []))}: these names must be reachable from "
            "here, and a majority of them must run; or add directConnection=true to RAGSTORE_MONGO_URL for a tunnel to "
            "the primary",
        )
    return None


def _of_answer(url: str, host: str, port: int, error: PyMongoError) -> StoreError | None:
    other = _OTHER_SET.search(str(error))
    if other and other[2] == "None":
        return no_replica_set()
    if other:
        return StoreSetupError(
            f"MongoDB: the URL names the replica set {other[1]!r}, the server's is {other[2]!r}",
            hint=f"write replicaSet={other[2]} in RAGSTORE_MONGO_URL, see 'ragstore status --settings'",
        )
    if "connection closed" in str(error) and _speaks_tls(url, host, port):
        return StoreSetupError("MongoDB: the server takes no connection without TLS", hint=HINT_TLS)
    told = translated(error)
    return told if isinstance(told, StoreSetupError) else None


def _speaks_tls(url: str, host: str, port: int) -> bool:
    try:
        with _direct(url, host, port, tls=True, tlsInsecure=True) as client:
            client.admin.command("hello")
    except PyMongoError as error:
        return "connection closed" not in str(error) and "refused" not in str(error)
    return True


def _direct(url: str, host: str, port: int, **options: Any) -> MongoClient[dict[str, Any]]:
    found = _HOSTS.match(url)
    assert found is not None  # the driver has read it
    scheme, user, rest = found.groups()
    named = f"[{host}]" if ":" in host else host
    address = host.replace("/", "%2F") if host.startswith("/") else f"{named}:{port}"
    if scheme.endswith("+srv"):
        options = {"tls": True} | options
    return MongoClient(
        f"mongodb://{f'{user}@' if user else ''}{address}{rest if rest.startswith('/') else '/' + rest}",
        directConnection=True,
        serverSelectionTimeoutMS=_ASK_MS,
        connectTimeoutMS=_ASK_MS,
        socketTimeoutMS=_ASK_MS,
        **options,
    )
