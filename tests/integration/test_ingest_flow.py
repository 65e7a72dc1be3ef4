"""How an ingest flows: what waits for what, what is read at all, and what is asked of the stores."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import ragstore
from ragstore.app import Ragstore
from ragstore.app.models import Models
from ragstore.errors import ModelError
from ragstore.ingest import pipeline
from ragstore.ingest.parse_process import ParserPool
from ragstore.ingest.pipeline import STORED_AT_ONCE
from ragstore.ingest.prefetch import MemoryBudget
from ragstore.ingest.vectors import Vectorizer
from ragstore.model.report import IngestReport
from ragstore.postgres import documents
from ragstore.protocol.publish import Publisher
from ragstore.settings import Settings
from tests.support.corpus import a_text, write_documents
from tests.support.internals import bytes_held
from tests.support.parts import execute

WAIT_S = 60.0


def ingest(rs: Ragstore, folder: Path) -> IngestReport:
    return rs.ingest(folder, collection="docs")


def with_options(settings: Settings, **options: Any) -> Settings:
    own = {name: getattr(settings, name) for name in ("postgres_url", "mongo_url", "mongo_database", "env")}
    return Settings(**own, grace_s=0, **options)


def spied(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Counter[str]:
    """Counts the calls of a function that goes on to do its work."""
    counts: Counter[str] = Counter()
    original: Callable[..., Any] = getattr(owner, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        counts[name] += 1
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counting)
    return counts


class Watched(MemoryBudget):
    """Tells when a file has to wait."""

    made: Watched
    is_full: threading.Event

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        Watched.made, self.is_full = self, threading.Event()

    def acquire(self, n_bytes: int) -> bool:
        if self._acquired + n_bytes > self.n_bytes:
            self.is_full.set()
        return super().acquire(n_bytes)


class Held:
    """Publishing that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()
        publish = Publisher.publish

        def wait_and_publish(*arguments: Any) -> Any:
            self.begun.release()
            assert self.let_go.wait(WAIT_S)
            return publish(*arguments)

        monkeypatch.setattr(Publisher, "publish", wait_and_publish)


def test_while_a_store_does_not_answer_no_more_is_read_than_memory_allows(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MemoryBudget", Watched)
    read, held = spied(monkeypatch, ParserPool, "submit"), Held(monkeypatch)
    write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 600) for i in range(80)})
    with ragstore.open(with_options(settings, ingest_memory_mb=8)) as rs, ThreadPoolExecutor(1) as thread:
        done = thread.submit(ingest, rs, tmp_path / "docs")
        for _ in range(STORED_AT_ONCE):
            assert held.begun.acquire(timeout=WAIT_S)
        assert Watched.made.is_full.wait(WAIT_S)
        assert 0 < read["submit"] < 40
        held.let_go.set()
        assert done.result().added == read["submit"] == 80
    assert Watched.made.peak_bytes <= Watched.made.n_bytes
    assert bytes_held(Watched.made) == 0


def test_an_interrupt_ends_an_ingest_whose_reader_waits_for_memory(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MemoryBudget", Watched)
    write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 600) for i in range(80)})

    def interrupt(*_: Any) -> None:
        assert Watched.made.is_full.wait(WAIT_S)
        raise KeyboardInterrupt

    monkeypatch.setattr(Vectorizer, "prepare", interrupt)
    before = psutil.Process().children()
    with ragstore.open(with_options(settings, ingest_memory_mb=8)) as rs:
        with pytest.raises(KeyboardInterrupt):
            ingest(rs, tmp_path / "docs")
        assert not [t for t in threading.enumerate() if t.name.startswith(("ragstore-feeder", "ragstore-listing"))]
        assert not [
            c for c in psutil.Process().children() if c not in before and "parse_child" in " ".join(c.cmdline())
        ]
    assert execute(settings, "SELECT count(*) FROM ragstore.run") == [(0,)]


def test_unchanged_documents_are_looked_up_a_thousand_at_a_time_and_start_no_reader(
    store: Ragstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "docs", {f"{i:04}.txt": f"Document {i} says this." for i in range(2_100)})
    assert ingest(store, tmp_path / "docs").added == 2_100
    asked, started = spied(monkeypatch, documents, "get_source_states"), spied(monkeypatch, ParserPool, "_start")
    assert ingest(store, tmp_path / "docs").unchanged == 2_100
    assert asked["get_source_states"] == 3, "one for each thousand"
    assert not started
    os.utime(tmp_path / "docs" / "0007.txt", (1, 1))
    assert ingest(store, tmp_path / "docs").unchanged == 2_100
    assert not started


def test_statistics_are_made_anew_after_many_new_nodes_and_not_after_few(
    store: Ragstore, settings: Settings, tmp_path: Path
) -> None:
    def last_analyze() -> Any:
        return execute(settings, "SELECT last_analyze FROM pg_stat_user_tables WHERE relname = 'data_docs'")[0][0]

    store.create_collection("docs", chunk_size=32, chunk_overlap=0)
    write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 60) for i in range(20)})
    ingest(store, tmp_path / "docs")
    first = last_analyze()
    assert first is not None
    write_documents(tmp_path / "docs", {"more.txt": a_text("more", 60)})
    assert ingest(store, tmp_path / "docs").added == 1
    assert last_analyze() == first
    write_documents(tmp_path / "docs", {f"more {i}.txt": a_text(f"more {i}", 60) for i in range(6)})
    assert ingest(store, tmp_path / "docs").added == 6
    assert last_analyze() > first


class Picky:
    """A model that refuses some texts, or from some moment on all."""

    name = "picky"
    dim = 256

    def __init__(self) -> None:
        self.n_takes: float = float("inf")

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        self.n_takes -= 1
        if self.n_takes < 0 or any("refused" in text for text in texts):
            raise ModelError("the model refuses this", hint="shorten it")
        vectors = np.random.default_rng(0).normal(size=(len(texts), self.dim)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> Picky:
    model = Picky()
    monkeypatch.setattr(Models, "of", lambda *_: model)
    return model


@pytest.mark.usefixtures("picky")
def test_a_document_that_the_model_refuses_is_to_blame_also_if_it_is_a_batch_of_its_own(
    settings: Settings, tmp_path: Path
) -> None:
    texts = {"a.txt": "Taken first.", "b.txt": "This is refused.", "c.txt": "Taken too."}
    write_documents(tmp_path / "docs", texts)
    with ragstore.open(with_options(settings, batch_chunks=1, parse_processes=1)) as rs:
        report = ingest(rs, tmp_path / "docs")
        assert (report.added, report.failed) == (2, 1)
        assert [Path(entry.document_id).name for entry in rs.quarantined("docs")] == ["b.txt"]


def test_a_model_that_takes_nothing_any_more_ends_the_ingest_and_blames_no_document(
    settings: Settings, tmp_path: Path, picky: Picky
) -> None:
    write_documents(tmp_path / "docs", {f"{i}.txt": f"Text {i}." for i in range(4)})
    picky.n_takes = 1
    with ragstore.open(with_options(settings, batch_chunks=1, parse_processes=1)) as rs:
        with pytest.raises(ModelError):
            ingest(rs, tmp_path / "docs")
        assert not rs.quarantined("docs")
        assert len(list(rs.documents("docs"))) == 1
