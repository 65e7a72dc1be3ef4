"""Database servers: start and stop of embedded ones, status of any, and a quick look for losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ragstore import embedded
from ragstore.app import migrations
from ragstore.app.wiring import Addresses, configured, home_of, mongo_database, postgres_pool
from ragstore.embedded import ServerUrls
from ragstore.errors import RagstoreError, UsageError
from ragstore.migrate import postgres as postgres_steps
from ragstore.migrate.requirements import check_encoding, check_vector
from ragstore.migrate.versions import head
from ragstore.model.collection import CollectionSummary
from ragstore.postgres.collections import list_collections
from ragstore.postgres.documents import missing_tables, read_gauges
from ragstore.settings import Settings, masked_url


@dataclass(frozen=True, slots=True)
class Status:
    """The status that ``ragstore status`` shows; each part has its own ``ok``.

    Args:
        whole: the result of a quick look for losses; None if another part is not ok.
    """

    postgres: dict[str, Any]
    mongo: dict[str, Any]
    schema: dict[str, Any]
    stores: dict[str, Any] = field(default_factory=lambda: {"ok": False, "epoch": None})
    collections: list[CollectionSummary] = field(default_factory=list)
    whole: Wholeness | None = None

    def as_dict(self) -> dict[str, Any]:
        """The shape ``status --json`` prints."""
        return {
            "postgres": self.postgres,
            "mongo": self.mongo,
            "schema": self.schema,
            "stores": self.stores,
            "collections": [summary.as_dict() for summary in self.collections],
            "whole": self.whole.as_dict() if self.whole else None,
        }


def up(settings: Settings, *, starting: Callable[[], None] | None = None) -> ServerUrls:
    """Start the embedded servers and migrate them.

    Args:
        starting: called before the servers are started; not called if they run already.

    Raises:
        UsageError: the settings name other servers.
        EmbeddedServerError: they cannot be run here.
    """
    _refuse_configured(settings, "start")
    urls = embedded.ensure_running(home_of(settings), starting=starting)
    migrations.apply_at(settings, Addresses(urls.postgres_url, urls.mongo_url))
    return urls


def down(settings: Settings) -> bool:
    """Stop the embedded servers; returns whether any was running."""
    _refuse_configured(settings, "stop")
    return embedded.stop(home_of(settings))


def status(settings: Settings, *, show_secrets: bool = False) -> Status:
    """The status of both servers; starts and changes nothing."""
    addresses = configured(settings) or _embedded_running(settings)
    if addresses is None:
        absent = {"ok": False, "version": None, "url": None, "error": "not running; start it with 'ragstore up'"}
        return Status(
            dict(absent),
            absent | {"database": settings.mongo_database},
            {"ok": False, "current": None, "head": _head()},
        )
    postgres, current, summaries = _look_at_postgres(settings, addresses)
    mongo, mongo_current = _look_at_mongo(settings, addresses)
    versions = (current, mongo_current)
    schema = {
        "ok": versions == (head("postgres"), head("mongo")),
        "current": f"postgres {current or 'none'}, mongo {mongo_current or 'none'}" if any(versions) else None,
        "head": _head(),
    }
    stores: dict[str, Any] = {"ok": False, "epoch": None}
    if current == head("postgres") and mongo["ok"]:
        stores = _compare(settings, addresses)
    well = all(part["ok"] for part in (postgres, mongo, schema))
    whole = look(settings, addresses) if well else None
    for part in (postgres, mongo):
        if not show_secrets:
            part["url"] = masked_url(part["url"])
    return Status(postgres, mongo, schema, stores, summaries, whole)


def _embedded_running(settings: Settings) -> Addresses | None:
    home = home_of(settings)
    urls = embedded.remembered_urls(home)
    if urls is None or not any(server.running for server in embedded.status(home)):
        return None
    return Addresses(urls.postgres_url, urls.mongo_url)


def _look_at_postgres(
    settings: Settings, addresses: Addresses
) -> tuple[dict[str, Any], str | None, list[CollectionSummary]]:
    part: dict[str, Any] = {"ok": False, "version": None, "url": addresses.postgres_url}
    pool = postgres_pool(settings, addresses)
    try:
        with pool.autocommit() as connection:
            part["version"] = str(connection.info.parameter_status("server_version")).split()[0]
            current = postgres_steps.current(connection)
            check_encoding(connection)
            if current is not None:
                check_vector(connection)
        part["ok"] = True
        return part, current, list_collections(pool) if current == head("postgres") else []
    except RagstoreError as error:
        part["error"] = _without_this_command(error)
        return part, None, []
    finally:
        pool.close()


def _look_at_mongo(settings: Settings, addresses: Addresses) -> tuple[dict[str, Any], str | None]:
    from ragstore.migrate import mongo as mongo_steps
    from ragstore.mongo.client import check_server, connect, database
    from ragstore.mongo.errors import translation

    part: dict[str, Any] = {
        "ok": False,
        "version": None,
        "url": addresses.mongo_url,
        "database": settings.mongo_database,
    }
    try:
        client = connect(addresses.mongo_url, timeout_s=settings.connect_timeout_s)
        with client, translation():
            check_server(client, addresses.mongo_url)
            part["version"] = client.server_info()["version"]
            current = mongo_steps.current(database(client, settings.mongo_database))
            part["ok"] = True
            return part, current
    except RagstoreError as error:
        part |= {"ok": False, "error": _without_this_command(error)}
        return part, None


def _compare(settings: Settings, addresses: Addresses) -> dict[str, Any]:
    """Whether the two databases belong together, and neither was restored to another moment."""
    from ragstore.postgres.epoch import position

    part: dict[str, Any] = {"ok": False, "epoch": None}
    pool = postgres_pool(settings, addresses)
    try:
        with mongo_database(settings, addresses) as database:
            part["epoch"] = position(pool).epoch
            migrations.check_mongo(database, pool)
        return part | {"ok": True}
    except RagstoreError as error:
        return part | {"error": str(error)}
    finally:
        pool.close()


def _without_this_command(error: RagstoreError) -> str:
    """The text of the error, without the advice to run ``ragstore status``, which is running."""
    return error.message if "ragstore status" in error.hint or not error.hint else f"{error.message} ({error.hint})"


def _head() -> str:
    return f"postgres {head('postgres')}, mongo {head('mongo')}"


def _refuse_configured(settings: Settings, verb: str) -> None:
    if configured(settings) is not None:
        raise UsageError(
            f"the databases are servers of your own, ragstore does not {verb} them",
            hint="unset RAGSTORE_POSTGRES_URL and RAGSTORE_MONGO_URL to use embedded servers",
        )


@dataclass(frozen=True, slots=True)
class Wholeness:
    """The result of a quick look for losses.

    Args:
        missing_tables: collections whose vector table does not exist.
        empty_in_mongo: collections that have live nodes, but none in MongoDB.
        pending: number of changes that must still reach MongoDB.
        overdue_s: seconds for which the oldest of them has been due.
        quarantined: number of documents in quarantine, by collection.
    """

    missing_tables: list[str] = field(default_factory=list)
    empty_in_mongo: list[str] = field(default_factory=list)
    pending: int = 0
    overdue_s: float = 0.0
    quarantined: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost; pending changes and documents in quarantine are not losses."""
        return not (self.missing_tables or self.empty_in_mongo)

    def as_dict(self) -> dict[str, Any]:
        """The shape ``status --json`` prints."""
        return {
            "ok": self.ok,
            "missing_tables": self.missing_tables,
            "empty_in_mongo": self.empty_in_mongo,
            "pending": self.pending,
            "overdue_s": round(self.overdue_s, 1),
            "quarantined": self.quarantined,
        }


def look(settings: Settings, addresses: Addresses) -> Wholeness:
    """Look for losses in both stores; only the counts of the ledger take longer with more data.

    Raises:
        StoreError
    """
    from ragstore.mongo.nodes import has_nodes

    pool = postgres_pool(settings, addresses)
    try:
        gauges, missing = read_gauges(pool), missing_tables(pool)
    finally:
        pool.close()
    filled = [each.name for each in gauges.collections if each.n_nodes]
    with mongo_database(settings, addresses) as mongo:
        empty = [name for name in filled if not has_nodes(mongo, name)]
    quarantined = {each.name: each.n_quarantined for each in gauges.collections if each.n_quarantined}
    return Wholeness(missing, empty, gauges.n_outbox, gauges.oldest_due_s, quarantined)
