from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import WriteError

from ragstore.errors import SchemaVersionError
from ragstore.migrate import mongo
from ragstore.migrate.versions import steps

Mongo = Database[dict[str, Any]]


def test_applying_twice_does_nothing_the_second_time(mongo_database: Mongo) -> None:
    assert [step.name for step in mongo.apply(mongo_database)] == [step.name for step in steps("mongo")]
    assert mongo.apply(mongo_database) == []
    assert mongo.current(mongo_database) == steps("mongo")[-1].version


def test_processes_that_migrate_at_the_same_time_all_succeed(mongo_database: Mongo) -> None:
    with ThreadPoolExecutor(4) as migrators:
        list(migrators.map(lambda _: mongo.apply(mongo_database), range(4)))
    assert mongo.pending(mongo_database) == []
    assert mongo_database[mongo.REGISTRY].count_documents({"kind": "step"}) == len(steps("mongo"))


def test_a_step_that_was_changed_after_it_was_applied_is_refused(mongo_database: Mongo) -> None:
    mongo.apply(mongo_database)
    mongo_database[mongo.REGISTRY].update_one({"kind": "step"}, {"$set": {"checksum": "another"}})
    with pytest.raises(SchemaVersionError, match="was changed after it was applied"):
        mongo.pending(mongo_database)


def test_a_database_newer_than_the_program_is_refused(mongo_database: Mongo) -> None:
    mongo.apply(mongo_database)
    newer = {"_id": "step:9999_pre_later", "kind": "step", "name": "9999_pre_later", "checksum": ""}
    mongo_database[mongo.REGISTRY].insert_one(newer)
    with pytest.raises(SchemaVersionError, match="9999"):
        mongo.pending(mongo_database)


def test_the_first_deployment_that_is_recorded_stays(mongo_database: Mongo) -> None:
    mongo.apply(mongo_database)
    assert mongo.set_deployment_id(mongo_database, "first") == "first"
    assert mongo.set_deployment_id(mongo_database, "second") == "first"


def test_the_registry_takes_nothing_but_steps_and_the_deployment(mongo_database: Mongo) -> None:
    mongo.apply(mongo_database)
    with pytest.raises(WriteError, match="validation"):
        mongo_database[mongo.REGISTRY].insert_one({"kind": "something else"})
