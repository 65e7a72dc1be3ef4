"""Protections of the protocol taken away, each in the one process that calls this, to see that their loss is noticed.

Each replaces something by name, and fails where that name is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ragstore.ingest import storer
from ragstore.model.collection import Collection
from ragstore.model.document import DocumentState, SourceItem
from ragstore.model.run import PlannedRevision, Run
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres import statements
from ragstore.postgres.change import Change
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.names import quoted_table
from tests.crash.forked import stand_still
from tests.support.internals import (
    before_copying_directly,
    before_publishing,
    before_writing,
    pool_of_ledger,
    replace,
)

_ANY_STAMP = 2**62


def stop_before_publishing() -> None:
    """Takes nothing away: stands still once, with everything staged, as a machine does that sleeps."""
    stopped: list[bool] = []

    def stop_once() -> None:
        if not stopped:
            stopped.append(True)
            stand_still()

    before_publishing(stop_once)


def publish_without_fence() -> None:
    """Publish also where the run was given up by somebody else."""

    @contextmanager
    def publishing(self: Ledger, collection: Collection, run: Run) -> Iterator[Change]:
        with pool_of_ledger(self).transaction() as cursor:
            cursor.execute(statements.END_RUN, {"run_id": run.run_id})
            change = Change(cursor, collection, run)
            yield change
            change.send()

    replace(Ledger, "publishing", publishing)


def publish_in_two_transactions() -> None:
    """Commit as soon as the old nodes are out of search."""
    original = Change.retire_nodes

    def retire_nodes(self: Change, document_ids: Sequence[str], *, grace_s: float) -> None:
        original(self, document_ids, grace_s=grace_s)
        self.cursor.connection.commit()

    replace(Change, "retire_nodes", retire_nodes)


def retire_before_publishing() -> None:
    """Take the old bodies out of MongoDB before the new revision is live."""

    def retire(nodes: NodeStore, cursor: Any, collection: Collection, revisions: Sequence[PlannedRevision]) -> None:
        old = f"SELECT node_id FROM {quoted_table(collection)} WHERE document_id = ANY(%s)"
        cursor.execute(old, ([r.document_id for r in revisions],))
        ids = [row[0] for row in cursor.fetchall()]
        nodes.delete_nodes(collection.name, ids, stamp=_ANY_STAMP, between=lambda: None)

    before_writing(retire)


def retire_without_grace() -> None:
    """Take the old bodies out of MongoDB as soon as the new revision is live."""
    original = Change.retire_nodes

    def retire_nodes(self: Change, document_ids: Sequence[str], *, grace_s: float) -> None:
        original(self, document_ids, grace_s=0)

    replace(Change, "retire_nodes", retire_nodes)


def begin_after_staging() -> None:
    """Note the run only when everything is staged."""
    begin_run, publishing = Ledger.begin_run, Ledger.publishing

    def begin_nothing(self: Ledger, run: Run, collection: Collection, *, lease_ttl_s: float) -> None:
        """Leave nothing behind."""

    @contextmanager
    def begin_and_publish(self: Ledger, collection: Collection, run: Run) -> Iterator[Change]:
        begin_run(self, run, collection, lease_ttl_s=60)
        with publishing(self, collection, run) as publication:
            yield publication

    replace(Ledger, "begin_run", begin_nothing)
    replace(Ledger, "publishing", begin_and_publish)


def write_directly_in_two_transactions() -> None:
    """Commit as soon as the former nodes of a document are out of search."""
    before_copying_directly(lambda cursor: cursor.connection.commit())


def publish_what_was_overtaken() -> None:
    """Publish what was read, however long ago that was."""

    def never(state: DocumentState, item: SourceItem) -> bool:
        return False

    replace(storer, "is_overtaken_now", never)


CHANGES: dict[str, Callable[[], None]] = {
    "stops before it publishes": stop_before_publishing,
    "publishes without a fence": publish_without_fence,
    "publishes in two transactions": publish_in_two_transactions,
    "retires before it publishes": retire_before_publishing,
    "retires without grace": retire_without_grace,
    "begins after staging": begin_after_staging,
    "writes directly in two transactions": write_directly_in_two_transactions,
    "publishes what was overtaken": publish_what_was_overtaken,
}
