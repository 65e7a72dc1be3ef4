"""Readers of the key-value stores in which LlamaIndex's document and index stores keep their entries."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

from ragstore.errors import UsageError
from ragstore.transfer.persist_dir import DOCSTORE, INDEX_STORE, PersistDir, open_persist_dir
from ragstore.transfer.systems.location import Location
from ragstore.transfer.systems.reader import PAGE, client_errors, client_module

Page = list[tuple[str, Any]]
"""Keys with their values."""


class KeyValues(ABC):
    """A key-value store; it is only read."""

    @abstractmethod
    def pages(self, collection: str) -> Iterator[Page]:
        """All entries of a collection such as ``docstore/data``; none if it does not exist."""

    @abstractmethod
    def collections(self) -> list[str]:
        """Names of the collections, as far as the system can tell them."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close the connection."""


class KeyValueObject(KeyValues):
    """Any ``BaseKVStore`` of LlamaIndex, or a document store on one; a collection is in memory as a whole."""

    def __init__(self, store: Any) -> None:
        self._store = getattr(store, "_kvstore", store)
        if not hasattr(self._store, "get_all"):
            raise UsageError(
                f"{type(store).__name__} is no key-value store of LlamaIndex",
                hint="give docstore= an address, a BaseKVStore or a document store that keeps its nodes in one",
            )
        self.namespace = str(getattr(store, "_namespace", None) or "docstore")

    def pages(self, collection: str) -> Iterator[Page]:
        entries = iter(self._store.get_all(collection=collection).items())
        while page := list(islice(entries, PAGE)):
            yield page

    def collections(self) -> list[str]:
        return []


class PersistedKeyValues(KeyValues):
    """``docstore.json`` and ``index_store.json`` of a persist_dir."""

    def __init__(self, persist_dir: PersistDir) -> None:
        self._persist_dir = persist_dir

    def pages(self, collection: str) -> Iterator[Page]:
        for name in (DOCSTORE, INDEX_STORE):
            entries = self._persist_dir.entries(name) if self._persist_dir.has(name) else iter(())
            found = ((each.key, each.value) for each in entries if each.section == collection and each.key is not None)
            while page := list(islice(found, PAGE)):
                yield page

    def collections(self) -> list[str]:
        found: dict[str, None] = {}
        for name in (DOCSTORE, INDEX_STORE):
            for entry in self._persist_dir.entries(name) if self._persist_dir.has(name) else ():
                found[entry.section] = None
        return list(found)


class RedisKeyValues(KeyValues):
    """``redis://…#namespace``: a collection is a hash."""

    def __init__(self, location: Location) -> None:
        self._location = location
        redis = client_module("redis", "redis")
        with client_errors(location):
            url = location.driver_url()
            # Without a user in the URL, the password is that of the default user.
            own = {} if "@" in url or not location.secret else {"password": location.secret}
            self._client = redis.Redis.from_url(url, **own)
            self._client.ping()

    def pages(self, collection: str) -> Iterator[Page]:
        cursor = 0
        with client_errors(self._location):
            while True:
                cursor, entries = self._client.hscan(collection, cursor, count=PAGE)
                if entries:
                    yield [(_text(key), json.loads(value)) for key, value in entries.items()]
                if not cursor:
                    return

    def collections(self) -> list[str]:
        with client_errors(self._location):
            return [_text(key) for key in self._client.scan_iter(match="*/*", count=PAGE, _type="hash")]

    def close(self) -> None:
        self._client.close()


class FirestoreKeyValues(KeyValues):
    """``firestore:PROJECT/DATABASE#namespace``; credentials as Google's client finds them."""

    def __init__(self, location: Location) -> None:
        location.take()
        self._location = location
        firestore = client_module("google.cloud.firestore", "firestore")
        project, _, database = location.address.partition("/")
        with client_errors(location):
            self._client = firestore.Client(project=project or None, database=database or "(default)")

    def pages(self, collection: str) -> Iterator[Page]:
        with client_errors(self._location):
            # A stream of the whole collection: the client goes on behind the last entry where the server ends it early.
            entries = iter(self._client.collection(collection.replace("/", "_")).stream())
            while found := list(islice(entries, PAGE)):
                yield [(each.id, self._value(each.to_dict() or {})) for each in found]

    def collections(self) -> list[str]:
        with client_errors(self._location):
            # A slash in a name is stored as an underscore, which a name may also have.
            return [f"{space}/{part}" for space, _, part in (c.id.rpartition("_") for c in self._client.collections())]

    def close(self) -> None:
        self._client.close()

    def _value(self, held: dict[str, Any]) -> dict[str, Any]:
        return {_FIRESTORE_NAMES.get(name, name): value for name, value in held.items()}


class DynamoKeyValues(KeyValues):
    """``dynamodb:TABLE#namespace``; region and credentials as AWS's client finds them, its address by DYNAMODB_URL."""

    def __init__(self, location: Location) -> None:
        location.take()
        self._location = location
        boto3 = client_module("boto3", "dynamodb")
        with client_errors(location):
            resource = boto3.resource("dynamodb", endpoint_url=os.environ.get("DYNAMODB_URL"))
            self._table = resource.Table(location.address)
            keys = {each["KeyType"]: each["AttributeName"] for each in self._table.key_schema}
        if set(keys) != {"HASH", "RANGE"}:
            raise UsageError(
                f"{location.shown} is no table of a DynamoDBKVStore: it has no sort key", hint="name another table"
            )
        self._hash, self._range = keys["HASH"], keys["RANGE"]

    def pages(self, collection: str) -> Iterator[Page]:
        key = client_module("boto3.dynamodb.conditions", "dynamodb").Key
        options = {"KeyConditionExpression": key(self._hash).eq(collection)}
        with client_errors(self._location):
            while True:
                found = self._table.query(**options)
                if found["Items"]:
                    yield [(str(each[self._range]), self._value(each)) for each in found["Items"]]
                if not found.get("LastEvaluatedKey"):
                    return
                options["ExclusiveStartKey"] = found["LastEvaluatedKey"]

    def collections(self) -> list[str]:
        """None: only a scan of the whole table would tell them."""
        return []

    def _value(self, held: dict[str, Any]) -> dict[str, Any]:
        return {name: _number(value) for name, value in held.items() if name not in (self._hash, self._range)}


_FIRESTORE_NAMES = {"data": "__data__", "type": "__type__"}
"""Firestore keeps names that begin with underscores for itself, so LlamaIndex leaves them out."""


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> Any:
    """DynamoDB's numbers as JSON's."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_number(each) for each in value]
    return {name: _number(each) for name, each in value.items()} if isinstance(value, dict) else value


def persisted(location: Location) -> KeyValues:
    """The document and index store of a local folder or an fsspec URL."""
    return PersistedKeyValues(open_persist_dir(location.address))
