"""Keeps the leases of a process's runs alive while it works on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ragstore.errors import LeaseLostError, StoreError
from ragstore.model.run import Run
from ragstore.postgres.ledger import Ledger
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)


class Heartbeat:
    """One thread that renews the leases of all active runs, three times per lease."""

    def __init__(self, ledger: Ledger, *, lease_ttl_s: float) -> None:
        self._ledger = ledger
        self._lease_ttl_s = lease_ttl_s
        self._lock = threading.Lock()
        self._sure_until: dict[str, float] = {}
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, run: Run, *, begun_at: float) -> Iterator[None]:
        """Renew the run's lease for the length of the block; ``begun_at`` is monotonic time before its insert."""
        with self._lock:
            self._sure_until[run.run_id] = begun_at + self._lease_ttl_s
            # After a fork the child has the object, and not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="ragstore-heartbeat", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._sure_until.pop(run.run_id, None)

    def check(self, run: Run) -> None:
        """Stop a worker that slept through its lease before it stages more.

        Raises:
            LeaseLostError: by this process's clock the lease may have run out.
        """
        with self._lock:
            sure_until = self._sure_until.get(run.run_id, 0.0)
        if time.monotonic() >= sure_until:
            raise LeaseLostError(
                f"run {run.run_id} may have lost its lease: this process was paused or cut off for too long",
                hint="run the same command again; raise RAGSTORE_LEASE_TTL_S if it happens often",
                run_id=run.run_id,
            )

    def close(self) -> None:
        """Stop renewing."""
        self._closed = True
        self._wake.set()

    def _beat(self) -> None:
        while not self._wake.wait(self._lease_ttl_s / 3) and not self._closed:
            with self._lock:
                run_ids = list(self._sure_until)
            if not run_ids:
                continue
            asked_at = time.monotonic()
            try:
                ours = self._ledger.renew_leases(run_ids, lease_ttl_s=self._lease_ttl_s)
            except StoreError as error:
                # The lease is checked before every durable step: a beat that fails only makes it run out.
                _log.warning("lease not renewed", action="heartbeat_failed", error=str(error))
                continue
            with self._lock:
                for run_id in run_ids:
                    if run_id in self._sure_until:
                        self._sure_until[run_id] = asked_at + self._lease_ttl_s if run_id in ours else 0.0
