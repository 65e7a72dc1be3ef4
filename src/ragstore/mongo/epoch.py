"""Epoch and newest mark of MongoDB, in the entry that names the deployment of the database."""

from __future__ import annotations

from typing import Any

from ragstore.model.epoch import Mark, StorePosition
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

_REGISTRY = "ragstore/registry"
_KEY: Document = {"_id": "deployment"}


def position(database: MongoDatabase) -> StorePosition | None:
    """MongoDB's position; None if the database has no entry of its deployment."""
    with translation():
        found = database[_REGISTRY].find_one(_KEY)
    return None if found is None else _position(found)


def advance(database: MongoDatabase, found: StorePosition, mark: Mark) -> bool:
    """Move the mark forward; False if MongoDB's position is not ``found`` any more, and nothing was changed.

    Crash safety:
        One acknowledged update of one entry.
    """
    with translation():
        done = database[_REGISTRY].update_one(_condition(found), {"$set": fields(StorePosition(found.epoch, mark))})
    return done.matched_count == 1


def put(database: MongoDatabase, position: StorePosition, *, deployment: str) -> None:
    """Set MongoDB's position, whatever it was before.

    Crash safety:
        One acknowledged update of one entry.
    """
    named = {"kind": "deployment", "deployment_id": deployment}
    with translation():
        database[_REGISTRY].update_one(_KEY, {"$set": named | fields(position)}, upsert=True)


def fields(position: StorePosition) -> dict[str, Any]:
    """A position as fields of the entry."""
    return {"epoch": position.epoch, "mark": {"number": position.mark.number, "token": position.mark.token}}


def _position(found: Document) -> StorePosition:
    mark = found.get("mark") or {}
    return StorePosition(found.get("epoch") or 1, Mark(mark.get("number") or 0, mark.get("token")))


def _condition(found: StorePosition) -> Document:
    own = fields(found)
    # Entries from versions without epochs have neither field.
    if found.epoch == 1:
        own["epoch"] = {"$in": [1, None]}
    if found.mark == Mark():
        own["mark"] = {"$in": [own["mark"], None]}
    return _KEY | own
