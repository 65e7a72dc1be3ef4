"""Drill: the newest backup restored into servers that are thrown away, and compared with what it should have."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ragstore import embedded
from ragstore.app.backups import Wanted, open_vault, restore
from ragstore.app.store import open_ragstore
from ragstore.app.wiring import postgres_pool, reachable
from ragstore.backup.drill import compare_own, compare_questions
from ragstore.backup.restore import manifest_of
from ragstore.errors import BackupLostError, EmbeddedServerError, RagstoreError
from ragstore.model.backup import Manifest
from ragstore.model.drill import DrillReport, Outcome
from ragstore.model.report import Listener
from ragstore.postgres.collections import get_collection
from ragstore.postgres.load import sample_nodes
from ragstore.query.search import Question, find
from ragstore.settings import Settings

_SAMPLED = 20


def drill(settings: Settings, target: str, *, key: Path | None = None, progress: Listener | None = None) -> DrillReport:
    """Restore the newest backup of a target into servers of its own and check it; the databases in use are not touched.

    Never raises for what a drill is to find out: it is in the report.

    Crash safety:
        Everything that it makes is in a folder for temporary files, which is deleted at the end.
    """
    begun = time.monotonic()
    now = datetime.now(UTC)
    report = DrillReport(target, now.isoformat(timespec="milliseconds"))
    with ExitStack() as stack:
        run = _Drill(report, settings, key, progress, stack)
        for step in (run.read_manifest, run.start_servers, run.restore, run.compare):
            if not step():
                break
    report.complete()
    report.seconds = time.monotonic() - begun
    return report


@dataclass(slots=True)
class _Drill:
    """The steps of a drill; each returns whether the next can follow."""

    report: DrillReport
    settings: Settings
    key: Path | None
    progress: Listener | None
    stack: ExitStack
    manifest: Manifest | None = None
    begun: float = 0.0

    def read_manifest(self) -> bool:
        with self._failing("manifest", lost="failed"):
            self.manifest = manifest_of(open_vault(self.report.target, self.key), None)[1]
            head = self.manifest.head
            self.report.backup, self.report.made_at = head.id, head.made_at
            began = datetime.fromisoformat(self.report.at)
            self.report.data_age_s = round((began - datetime.fromisoformat(head.made_at)).total_seconds(), 1)
            self.report.add("manifest", "passed", f"backup {head.id} of {head.made_at}, schema {head.postgres_schema}")
            return True
        return False

    def start_servers(self) -> bool:
        self.begun = time.monotonic()
        with self._failing("restore", lost="could_not_run"):
            home = Path(self.stack.enter_context(_temporary_home()))
            self.settings = self.settings.model_copy(
                update={
                    "home": home,
                    "postgres_url": None,
                    "mongo_url": None,
                    "postgres_password": None,
                    "mongo_password": None,
                }
            )
            self.stack.callback(embedded.stop, home)
            embedded.ensure_running(home)
            return True
        return False

    def restore(self) -> bool:
        assert self.manifest is not None
        with self._failing("restore", lost="failed"):
            # The backup whose manifest was read: a newer one may be there by now.
            done = restore(
                self.settings, self.report.target, Wanted(self.manifest.head.id), key=self.key, progress=self.progress
            )
            self.report.recovery_s = round(time.monotonic() - self.begun - (done.seconds - done.seconds_ready), 1)
            self.report.documents, self.report.nodes = done.documents, done.nodes
            self.report.add("restore", "passed", f"{', '.join(done.collections) or 'no collection'} restored")
            drift = ", ".join(f"{n} {kind}" for kind, n in done.drift.items())
            self.report.add("verify", "failed" if drift else "passed", drift or "both stores agree, compared deeply")
            return True
        return False

    def compare(self) -> bool:
        assert self.manifest is not None
        with self._failing("questions", lost="failed"):
            self._count(self.manifest)
            pool = postgres_pool(self.settings, reachable(self.settings))
            self.stack.callback(pool.close)
            found = {each.name: get_collection(pool, each.name) for each in self.manifest.collections}

            def search(name: str, vector: Sequence[float], n: int) -> list[tuple[str, float]]:
                rows = find(pool, found[name], Question(vector=vector, mode="vector", top_k=max(1, n))).rows
                return [(row.node_id, row.score) for row in rows]

            self.report.checks.append(compare_questions(self.manifest, search))
            own = [(name, i, v) for name, each in found.items() for i, v in sample_nodes(pool, each, _SAMPLED)]
            self.report.checks.append(compare_own(own, search))
            return True
        return False

    def _count(self, manifest: Manifest) -> None:
        """Compare the ledger's counts with those of the manifest."""
        with open_ragstore(self.settings) as store:
            now = {each.name: each.documents for each in store.collections()}
            verified = store.verify()
        expected = {each.name: each.n_documents for each in manifest.collections}
        if now == expected and verified.nodes == manifest.head.n_nodes:
            self.report.add("counts", "passed", f"{manifest.head.n_documents:,} documents, {verified.nodes:,} nodes")
        else:
            self.report.add("counts", "failed", f"{now} documents instead of {expected}, {verified.nodes:,} nodes")

    @contextmanager
    def _failing(self, name: str, *, lost: Outcome) -> Iterator[None]:
        """Put an error into the report, as ``lost`` if it is not known what it says of the backup."""
        try:
            yield
        except EmbeddedServerError as error:
            self.report.add(name, "could_not_run", str(error))
        except BackupLostError as error:
            self.report.add(name, "failed", str(error))
        except RagstoreError as error:
            outcome: Outcome = "could_not_run" if name == "manifest" else lost
            self.report.add(name, outcome, str(error))
        except Exception as error:  # edge of the drill: whatever happened, it did not pass
            self.report.add(name, lost, f"{type(error).__name__}: {error}")


@contextmanager
def _temporary_home() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="ragstore-drill-")
    # Under root the servers run as another user, who must be able to enter it.
    os.chmod(folder, 0o711)  # noqa: S103
    try:
        yield os.path.join(folder, "home")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
