"""Readers of the soak: one by plain SQL and pymongo, one by ``query``; each look must show whole documents only."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

import psycopg2
from psycopg2 import OperationalError
from pymongo.errors import PyMongoError

from ragstore.app import Ragstore
from ragstore.errors import RagstoreError, Retry
from tests.crash.readers import everything
from tests.crash.soak_worker import is_signed
from tests.support.oracle import Oracle, Snapshot

_DIM = 256
_PAUSE_S = 0.05
_AWAY = (OperationalError, psycopg2.InterfaceError, PyMongoError)
"""A server that was killed: the next look will do."""


class SoakReaders:
    """Look from the beginning of the block to its end.

    Args:
        looks, violations: are added to.
    """

    def __init__(self, rs: Ragstore, oracle: Oracle, bodies: Any, looks: Counter[str], violations: list[str]) -> None:
        self._rs = rs
        self._oracle = oracle
        self._bodies = bodies
        self._looks = looks
        self._violations = violations
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._by_sql, self._by_query)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _by_sql(self) -> None:
        while not self._over.wait(_PAUSE_S):
            try:
                seen = self._oracle.snapshot()
                wrong = _torn(seen)
                missing = self._without_body(seen)
                if missing:
                    # Only what is live still: the grace period may have ended while a server was away.
                    still = {row.node_id for row in self._oracle.snapshot().rows}
                    wrong += [f"live node without body: {node_id}" for node_id in missing & still]
            except _AWAY:
                continue
            self._looks["by sql"] += 1
            self._violations += wrong

    def _by_query(self) -> None:
        while not self._over.wait(_PAUSE_S):
            try:
                hits = everything(self._rs, _DIM)
            except RagstoreError as error:
                if error.retry is not Retry.LATER:
                    self._violations.append(f"a query fails for good: {error!r}")
                continue
            parts: dict[str, list[tuple[int, str]]] = {}
            for hit in hits:
                parts.setdefault(hit.document_id, []).append((hit.start_char or 0, hit.text))
            self._looks["by query"] += 1
            self._violations += [
                f"query shows a torn document: {document_id}, {len(texts)} hits"
                for document_id, texts in parts.items()
                if not is_signed(" ".join(" ".join(text for _, text in sorted(texts)).split()))
            ]

    def _without_body(self, seen: Snapshot) -> set[str]:
        ids = {row.node_id for row in seen.rows}
        return ids - {body["_id"] for body in self._bodies.find({"_id": {"$in": list(ids)}}, {"_id": 1})}


def _torn(seen: Snapshot) -> list[str]:
    """Documents that are not whole, as one reader sees them."""
    wrong = [
        f"row of a document that is not live: {r.node_id}" for r in seen.rows if r.document_id not in seen.documents
    ]
    for document_id, shown in seen.documents.items():
        rows = seen.of(document_id)
        if len(rows) != shown.n_nodes or not is_signed(" ".join(" ".join(row.text for row in rows).split())):
            wrong.append(f"torn document: {document_id} at revision {shown.revision}, {len(rows)} of {shown.n_nodes}")
    return wrong
