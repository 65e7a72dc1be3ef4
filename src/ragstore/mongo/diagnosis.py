"""Diagnosis of a missing primary: each server of the URL is asked on its own for its state."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from ragstore.errors import StoreError, StoreSetupError, StoreUnavailableError
from ragstore.mongo.errors import HINT_TLS, no_replica_set, translated

_ASK_MS = 1500
_HOSTS = re.compile(r"^(mongodb(?:\+srv)?)://(?:([^@/?]*)@)?[^/?]*(.*)$", re.DOTALL)
_SET_NAME = re.compile(r"(?i)(?<=[?&])replicaSet=[^&]*&?")


def diagnosis(url: str, error: StoreError) -> StoreError:
    """A more precise error if the servers show what is wrong with them or with the URL; else the same error."""
    if not isinstance(error, StoreUnavailableError) and "replica set" not in error.message:
        return error
    try:
        parsed = parse_uri(url)
    except PyMongoError:
        return error
    found = [_asked(url, host, port or 27017, parsed["options"].get("replicaSet")) for host, port in parsed["nodelist"]]
    lasting = (each for each in found if isinstance(each, StoreSetupError))
    return next(lasting, None) or next((each for each in found if each is not None), error)


def no_set(hello: Mapping[str, Any]) -> StoreSetupError | None:
    """The error for a server that is in no replica set; None for one that is."""
    # A router of a sharded cluster names no set; its shards are replica sets.
    if "setName" in hello or hello.get("msg") == "isdbgrid":
        return None
    if hello.get("isreplicaset"):
        return no_replica_set("the server's replica set was never made", hint="run rs.initiate() on it, once")
    return no_replica_set()


def _asked(url: str, host: str, port: int, wanted: str | None) -> StoreError | None:
    try:
        with _direct(url, host, port) as client:
            hello: dict[str, Any] = client.admin.command("hello")
    except PyMongoError as error:
        if "connection closed" in str(error) and _speaks_tls(host, port):
            return StoreSetupError("MongoDB: the server takes no connection without TLS", hint=HINT_TLS)
        found = translated(error)
        return found if isinstance(found, StoreSetupError) else None
    name = hello.get("setName")
    if name is None:
        return no_set(hello)
    if wanted not in (None, name):
        return StoreSetupError(
            f"MongoDB: the URL names the replica set {wanted!r}, the server's is {name!r}",
            hint=f"write replicaSet={name} in RAGSTORE_MONGO_URL, see 'ragstore status --settings'",
            in_python=f"write replicaSet={name} in RAGSTORE_MONGO_URL",
        )
    if not hello.get("isWritablePrimary", True):
        return StoreUnavailableError(
            f"MongoDB: the replica set {name} has no primary that can be reached",
            hint=f"its members call themselves {', '.join(hello.get('hosts', []))}: these names must be reachable from "
            "here, and a majority of them must run",
        )
    return None


def _speaks_tls(host: str, port: int) -> bool:
    """Whether the server answers a TLS handshake; one that has just died or does not respond, does not."""
    if host.startswith("/"):
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=_ASK_MS / 1000) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        # A TLS alert: it needs another version or a client certificate.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _direct(url: str, host: str, port: int, **options: Any) -> MongoClient[dict[str, Any]]:
    found = _HOSTS.match(url)
    assert found is not None  # the driver has parsed it
    scheme, user, rest = found.groups()
    rest = _SET_NAME.sub("", rest)
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
