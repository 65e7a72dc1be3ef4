"""Migrations of MongoDB: numbered Python steps, idempotent, recorded when they are done."""

from __future__ import annotations

import importlib.util
from typing import Any

from ragstore.errors import SchemaVersionError
from ragstore.migrate.versions import Step, head, steps

REGISTRY = "ragstore/registry"


def current(database: Any) -> str | None:
    """The version of the database, None before the first migration."""
    names = [entry["name"] for entry in database[REGISTRY].find({"kind": "step"})]
    return max(names)[:4] if names else None


def pending(database: Any) -> list[Step]:
    """Steps that ``apply`` would run, in order.

    Raises:
        SchemaVersionError: an applied step was changed, or the database is newer than this program.
    """
    applied = {entry["name"]: entry["checksum"] for entry in database[REGISTRY].find({"kind": "step"})}
    if applied and max(applied)[:4] > head("mongo"):
        raise SchemaVersionError(
            f"MongoDB has schema version {max(applied)[:4]}, this program knows up to {head('mongo')}",
            hint="install the newer ragstore that migrated it",
        )
    for step in steps("mongo"):
        if step.name in applied and applied[step.name] != step.checksum:
            raise SchemaVersionError(
                f"migration {step.name} was changed after it was applied",
                hint=f"restore {step.path.name} from version control and write a new step instead",
            )
    return [step for step in steps("mongo") if step.name not in applied]


def apply(database: Any) -> list[Step]:
    """Run the pending steps; returns them.

    Crash safety:
        Steps are idempotent: a step that was killed, or that two processes run at once, can be run again.
    """
    todo = pending(database)
    for step in todo:
        spec = importlib.util.spec_from_file_location(f"ragstore_mongo_{step.version}", step.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.upgrade(database)
        database[REGISTRY].replace_one(
            {"_id": f"step:{step.name}"},
            {"kind": "step", "name": step.name, "checksum": step.checksum},
            upsert=True,
        )
    return todo


def deployment_id(database: Any) -> str | None:
    """Id of the deployment that this database belongs to, None if none is recorded."""
    entry = database[REGISTRY].find_one({"_id": "deployment"})
    return entry["deployment_id"] if entry else None


def set_deployment_id(database: Any, deployment: str, **fields: Any) -> str:
    """Record the deployment, unless one is recorded; returns the recorded one.

    Args:
        fields: other fields of a new entry.
    """
    database[REGISTRY].update_one(
        {"_id": "deployment"},
        {"$setOnInsert": {"kind": "deployment", "deployment_id": deployment, **fields}},
        upsert=True,
    )
    return deployment_id(database) or deployment
