"""Migrations of both databases, and checks that refuse a wrong schema or a MongoDB of another deployment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ragstore.app.wiring import Addresses, mongo_database, postgres_pool, reachable
from ragstore.errors import EmptyStoreError, SchemaVersionError, StoreUnavailableError
from ragstore.migrate import postgres as postgres_steps
from ragstore.migrate.requirements import check_encoding, check_vector
from ragstore.migrate.versions import Step, head
from ragstore.postgres.epoch import count_documents, deployment_id, position
from ragstore.postgres.errors import translation
from ragstore.postgres.pool import Connection, PostgresPool
from ragstore.postgres.session import SCHEMA, SETTINGS, in_schema
from ragstore.postgres.turn import exclusive
from ragstore.settings import Settings

if TYPE_CHECKING:
    from ragstore.mongo.client import MongoDatabase

_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Whether the schemas are up to date; ``current`` and ``head`` name the versions of PostgreSQL and MongoDB."""

    ok: bool
    current: str | None
    head: str


def plan(settings: Settings) -> list[Step]:
    """The steps that ``apply`` would run."""
    return _plan(settings, with_sql=False)[0]


def plan_sql(settings: Settings) -> tuple[list[Step], str]:
    """The steps that ``apply`` would run, and a script of PostgreSQL's steps to review and to run with psql."""
    return _plan(settings, with_sql=True)


def _plan(settings: Settings, *, with_sql: bool) -> tuple[list[Step], str]:
    addresses = reachable(settings)
    with _connected(settings, addresses) as connection, mongo_database(settings, addresses) as database:
        from ragstore.migrate import mongo as mongo_steps
        from ragstore.migrate.script import Session, script

        planned = [*postgres_steps.pending(connection), *mongo_steps.pending(database)]
        schema = settings.postgres_schema
        named = partial(in_schema, schema) if schema != SCHEMA else str
        return planned, script(connection, Session(schema, named, SETTINGS), planned) if with_sql else ""


def apply(settings: Settings) -> list[Step]:
    """Run what is pending in both databases; returns what was run."""
    return apply_at(settings, reachable(settings))


def apply_at(settings: Settings, addresses: Addresses) -> list[Step]:
    """As ``apply``, on databases at known addresses."""
    from ragstore.migrate import mongo as mongo_steps

    with mongo_database(settings, addresses) as database:  # first: both must be usable before a change
        done = apply_postgres(addresses.postgres_url, schema=settings.postgres_schema)
        done += mongo_steps.apply(database)
        with closing(postgres_pool(settings, addresses)) as pool:
            with pool.autocommit() as connection:
                is_empty = not count_documents(connection)
            if is_empty:
                set_deployment(database, pool)
    return done


def apply_postgres(url: str, *, schema: str = SCHEMA, wait_s: float = _WAIT_S) -> list[Step]:
    """As ``apply``, on PostgreSQL alone.

    Raises:
        StoreUnavailableError: another process is migrating for longer than ``wait_s``.
    """
    pool = PostgresPool(url, size=1, schema=schema)
    try:
        with exclusive(pool, postgres_steps.LOCK_KEY, wait_s=wait_s) as is_mine, translation():
            if not is_mine:
                raise StoreUnavailableError(
                    f"another migration held the lock for {wait_s:.0f} s", hint="see 'ragstore migrate status'"
                )
            return postgres_steps.apply(pool.unlent, schema=schema)
    finally:
        pool.close()


def status(settings: Settings) -> SchemaStatus:
    """Versions of both schemas."""
    addresses = reachable(settings)
    with _connected(settings, addresses) as connection, mongo_database(settings, addresses) as database:
        from ragstore.migrate import mongo as mongo_steps

        current = (postgres_steps.current(connection), mongo_steps.current(database))
    wanted = (head("postgres"), head("mongo"))
    shown = f"postgres {current[0] or 'none'}, mongo {current[1] or 'none'}" if any(current) else None
    return SchemaStatus(current == wanted, shown, f"postgres {wanted[0]}, mongo {wanted[1]}")


def check_postgres(pool: PostgresPool) -> None:
    """Refuse a PostgreSQL schema of another version.

    Raises:
        SchemaVersionError: names both versions and the command.
        StoreSetupError: the encoding of the database, or its pgvector, cannot be used.
    """
    with pool.autocommit() as connection:
        check_encoding(connection)
        _check("PostgreSQL", postgres_steps.current(connection), head("postgres"))
        check_vector(connection)


def check_or_apply(settings: Settings, addresses: Addresses, pool: PostgresPool) -> None:
    """As ``check_postgres``, but embedded servers of an older version are migrated."""
    try:
        check_postgres(pool)
    except SchemaVersionError:
        if not settings.embedded:
            raise
        apply_at(settings, addresses)
        check_postgres(pool)


def check_mongo(database: MongoDatabase, pool: PostgresPool) -> None:
    """Refuse a MongoDB database of another schema version or another deployment.

    Raises:
        SchemaVersionError, EmptyStoreError
        RestoredStoreError: one of the two was restored to another moment.
    """
    from ragstore.migrate import mongo as mongo_steps
    from ragstore.mongo.errors import translation as mongo_translation
    from ragstore.protocol.epoch import EpochWatch

    with mongo_translation():
        current = mongo_steps.current(database)
        theirs = mongo_steps.deployment_id(database)
    with pool.autocommit() as connection:
        n_documents = count_documents(connection)
    if n_documents and (current is None or theirs is None):
        raise EmptyStoreError(
            f"MongoDB database {database.name!r} is empty, but PostgreSQL knows {n_documents} documents",
            hint="check RAGSTORE_MONGO_URL and RAGSTORE_MONGO_DATABASE; if they are right and its content is lost, "
            "'ragstore repair' rebuilds it from PostgreSQL",
        )
    _check("MongoDB", current, head("mongo"))
    check_deployment(database, pool, may_be_unset=False)
    EpochWatch(pool, database).check()


def check_deployment(database: MongoDatabase, pool: PostgresPool, *, may_be_unset: bool = True) -> None:
    """Refuse a MongoDB database that was made for another PostgreSQL database.

    Args:
        may_be_unset: accept a database that does not say its deployment, because it was emptied.

    Raises:
        EmptyStoreError
    """
    from ragstore.migrate import mongo as mongo_steps
    from ragstore.mongo.errors import translation as mongo_translation

    with mongo_translation():
        theirs = mongo_steps.deployment_id(database)
    ours = deployment_of(pool)
    if theirs == ours or (theirs is None and may_be_unset):
        return
    raise EmptyStoreError(
        f"MongoDB database {database.name!r} was made for another PostgreSQL database",
        hint="check that RAGSTORE_POSTGRES_URL, RAGSTORE_MONGO_URL and RAGSTORE_MONGO_DATABASE belong together",
        expected=ours,
        found=theirs,
    )


def register_mongo(database: MongoDatabase, pool: PostgresPool) -> bool:
    """Bring an emptied MongoDB database to the current schema and tie it to PostgreSQL; returns whether it was needed.

    Raises:
        SchemaVersionError, EmptyStoreError: it is newer than this program, or another deployment's.

    Crash safety:
        Idempotent; the deployment is recorded last, so that after a kill it is done again.
    """
    from ragstore.migrate import mongo as mongo_steps
    from ragstore.mongo.errors import translation as mongo_translation

    check_deployment(database, pool)
    with mongo_translation():
        if mongo_steps.current(database) == head("mongo") and mongo_steps.deployment_id(database) is not None:
            return False
        mongo_steps.apply(database)
        set_deployment(database, pool)
    return True


def set_deployment(database: MongoDatabase, pool: PostgresPool) -> None:
    """Tie a MongoDB database without a deployment to this PostgreSQL database, at PostgreSQL's current mark."""
    from ragstore.migrate import mongo as mongo_steps
    from ragstore.mongo.epoch import fields

    mongo_steps.set_deployment_id(database, deployment_of(pool), **fields(position(pool)))


def deployment_of(pool: PostgresPool) -> str:
    """The id that both databases of a deployment hold."""
    with pool.autocommit() as connection:
        return deployment_id(connection)


def migrate_mongo(database: MongoDatabase) -> None:
    """Bring a MongoDB database to the current schema."""
    from ragstore.migrate import mongo as mongo_steps
    from ragstore.mongo.errors import translation as mongo_translation

    with mongo_translation():
        mongo_steps.apply(database)


def _check(store: str, current: str | None, wanted: str) -> None:
    if current == wanted:
        return
    if current is not None and current > wanted:
        raise SchemaVersionError(
            f"{store} has schema version {current}, this program works with {wanted}",
            hint="install the ragstore that migrated it",
        )
    raise SchemaVersionError(
        f"{store} has {'no schema' if current is None else f'schema version {current}'}, this program needs {wanted}",
        hint="run 'ragstore migrate apply'",
    )


@contextmanager
def _connected(settings: Settings, addresses: Addresses) -> Iterator[Connection]:
    pool = postgres_pool(settings, addresses)
    try:
        with pool.autocommit() as connection:
            check_encoding(connection)
            if postgres_steps.current(connection) is not None:
                check_vector(connection)
            yield connection
    finally:
        pool.close()
