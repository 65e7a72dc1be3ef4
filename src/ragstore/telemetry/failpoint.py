"""Failpoints: named places after a durable step, at which a test can kill the process."""

from __future__ import annotations

import os
import signal
import threading
from enum import StrEnum


class Failpoint(StrEnum):
    """Each name says what is durable when the process dies there."""

    RUN_BEGUN = "run_begun"
    NODES_HALF_STAGED = "nodes_half_staged"
    NODES_STAGED = "nodes_staged"
    VECTORS_COPIED = "vectors_copied"
    PUBLISHED = "published"
    NODES_HALF_RETIRED = "nodes_half_retired"
    NODES_RETIRED = "nodes_retired"
    REF_DOCS_HALF_PUT = "ref_docs_half_put"
    REF_DOCS_PUT = "ref_docs_put"
    NODES_PUT = "nodes_put"
    DOCUMENTS_DELETED = "documents_deleted"
    DELETE_PUBLISHED = "delete_published"
    COLLECTION_EMPTIED = "collection_emptied"
    COLLECTION_DROPPING = "collection_dropping"
    COLLECTION_DROPPED = "collection_dropped"
    DIRECT_WRITTEN = "direct_written"
    DIRECT_COMMITTED = "direct_committed"
    DIRECT_FINISHED = "direct_finished"
    RUNS_RECOVERED = "runs_recovered"
    OUTBOX_TRIED = "outbox_tried"
    STRUCTS_PUT = "structs_put"
    MARK_ADVANCED = "mark_advanced"
    INDEX_BUILD_BEGUN = "index_build_begun"
    INDEX_BUILT = "index_built"
    INDEX_NOTED = "index_noted"
    FILTER_KEYS_DECLARED = "filter_keys_declared"
    FILTER_INDEX_BUILT = "filter_index_built"
    REPAIR_REGISTERED = "repair_registered"
    REPAIR_TABLE_MADE = "repair_table_made"
    REPAIR_WRITTEN = "repair_written"
    REPAIR_COMMITTED = "repair_committed"
    REPAIR_REPLACED = "repair_replaced"
    REPAIR_DELETED = "repair_deleted"
    SET_ASIDE_COPIED = "set_aside_copied"
    SET_ASIDE_REMOVED = "set_aside_removed"
    EPOCH_BEGUN = "epoch_begun"
    REVISIONS_RAISED = "revisions_raised"
    EPOCH_TOLD = "epoch_told"
    BACKUP_CLAIMED = "backup_claimed"
    BACKUP_PACK_STORED = "backup_pack_stored"
    BACKUP_LEDGER_STORED = "backup_ledger_stored"
    BACKUP_STORED = "backup_stored"
    RESTORE_TABLE_MADE = "restore_table_made"
    RESTORE_PACK_LOADED = "restore_pack_loaded"
    RESTORE_INDEXED = "restore_indexed"
    RESTORE_SWITCHING = "restore_switching"
    RESTORE_SWITCHED = "restore_switched"
    RESTORE_FILLED = "restore_filled"


_hits: dict[Failpoint, int] = {}
_lock = threading.Lock()


def reached(failpoint: Failpoint) -> None:
    """Die here by SIGKILL if a test armed this failpoint.

    Armed by ``RAGSTORE_FAILPOINT=name`` or ``name:n`` (the n-th time), and only with ``RAGSTORE_ENV=test``.
    """
    armed = os.environ.get("RAGSTORE_FAILPOINT")
    if armed is None or os.environ.get("RAGSTORE_ENV") != "test":
        return
    name, _, count = armed.partition(":")
    if name != failpoint:
        return
    with _lock:
        _hits[failpoint] = _hits.get(failpoint, 0) + 1
        if _hits[failpoint] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
