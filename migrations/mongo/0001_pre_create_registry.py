"""Create the registry of steps and of the deployment that this database belongs to.

Why:  a step is applied once, and a database made for another PostgreSQL is recognised.
Lock: none; the collection is new.
Safe: runs before the program that uses it is deployed.
Undo: drop the collection ``ragstore/registry``.
"""

from typing import Any

from pymongo.errors import OperationFailure

_NAMESPACE_EXISTS = 48


def upgrade(database: Any) -> None:
    name = "ragstore/registry"
    kinds = {"$jsonSchema": {"required": ["kind"], "properties": {"kind": {"enum": ["step", "deployment"]}}}}
    try:
        database.create_collection(name, validator=kinds, check_exists=False)
    except OperationFailure as error:
        # Another process that migrates at the same time made it.
        if error.code != _NAMESPACE_EXISTS:
            raise
    database[name].create_index([("kind", 1), ("_id", 1)], name="kind_1")
