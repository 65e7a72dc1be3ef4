"""Readers that ask all the time while others write and die; each answer must show each document in one whole revision."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ragstore.app import Ragstore
from ragstore.errors import CollectionNotFoundError
from ragstore.model.hit import Hit
from tests.crash.forked import COLLECTION, Child, Order
from tests.support.forkserver import context
from tests.support.llama_faces import a_document, a_splitter
from tests.support.oracle import Change, State, is_covered

ALL = 1_000
"""More hits than there are nodes: an answer holds every node that is live."""

_PAUSE_S = 0.002

Judge = Callable[[Sequence[Hit]], list[str]]
"""What is wrong with the answer that holds everything."""


@dataclass
class StagedJudge:
    """Of documents that an ingest publishes: wholly old or wholly new, and once new never old again."""

    changes: Sequence[Change]
    untouched: State

    def __post_init__(self) -> None:
        self._is_new = [False] * len(self.changes)

    def __call__(self, hits: Sequence[Hit]) -> list[str]:
        shown: dict[str, list[tuple[int, int, str]]] = {}
        for hit in hits:
            shown.setdefault(hit.document_id, []).append((hit.start_char or 0, hit.end_char or 0, hit.text))
        spans = {document_id: sorted(parts) for document_id, parts in shown.items()}
        wrong = []
        for i, change in enumerate(self.changes):
            is_old, is_new = _shows(spans, change, change.before), _shows(spans, change, change.after)
            if not is_old and not is_new:
                wrong.append(f"a reader sees neither old nor new: {sorted(change.document_ids)}")
            elif self._is_new[i] and not is_new:
                wrong.append(f"a reader sees the old revision after the new one: {sorted(change.document_ids)}")
            self._is_new[i] = self._is_new[i] or (is_new and not is_old)
        for document_id, text in self.untouched.items():
            if not is_covered(spans.get(document_id, []), text):
                wrong.append(f"a reader misses a part of a document that nobody touches: {document_id}")
        known = {*self.untouched, *(i for change in self.changes for i in change.document_ids)}
        return wrong + [f"a reader sees a document nobody wrote: {i}" for i in spans.keys() - known]


def _shows(spans: Mapping[str, list[tuple[int, int, str]]], change: Change, state: State) -> bool:
    return all(is_covered(spans.get(i, []), state[i]) if i in state else i not in spans for i in change.document_ids)


@dataclass(frozen=True)
class DirectJudge:
    """Of documents that LlamaIndex code writes: all of one version.

    Args:
        before, after: version of each document, None where there is none.
        at_once: the old version goes as the new one comes; otherwise both may be there for a moment.
    """

    before: Mapping[str, int | None]
    after: Mapping[str, int | None]
    at_once: bool

    def __call__(self, hits: Sequence[Hit]) -> list[str]:
        shown: dict[str, Counter[str]] = {}
        for hit in hits:
            shown.setdefault(hit.document_id, Counter())[hit.text] += 1
        wrong = []
        for name in self.before:
            seen = shown.get(name, Counter())
            versions = (texts_of(name, self.before[name]), texts_of(name, self.after[name]))
            whole = any(seen == v if self.at_once else v <= seen for v in versions)
            if not whole:
                wrong.append(f"a reader sees no whole version of {name}: {sorted(seen.items())}")
        return wrong + [f"a reader sees a document nobody wrote: {i}" for i in shown.keys() - self.before.keys()]


def texts_of(name: str, version: int | None) -> Counter[str]:
    if version is None:
        return Counter()
    return Counter(n.get_content() for n in a_splitter().get_nodes_from_documents([a_document(name, version)]))


def everything(rs: Ragstore, dim: int) -> list[Hit]:
    """All live nodes in one answer; none of a collection that is gone."""
    try:
        return rs.query("", collection=COLLECTION, mode="vector", embedding=[1.0] * dim, top_k=ALL)
    except CollectionNotFoundError:
        return []


def look_until(rs: Ragstore, judge: Judge, over: Any) -> tuple[int, list[str]]:
    """Look until ``over`` is set; how often, and what was wrong first."""
    dim = next((summary.dim for summary in rs.collections() if summary.name == COLLECTION), 1)
    n_looks = 0
    while True:
        last = over.is_set()
        wrong = judge(everything(rs, dim))
        n_looks += 1
        if wrong or last:
            return n_looks, wrong
        over.wait(_PAUSE_S)


class Bodies:
    """A reader that takes its time: finds nodes, and asks MongoDB for them once others have gone on."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._held: dict[str, str] = {}

    def __call__(self, hits: Sequence[Hit]) -> list[str]:
        """Also of what was found before: within the grace period nothing of it may be gone."""
        self._held |= {hit.node_id: hit.text for hit in hits}
        bodies = {b["_id"]: b["__data__"]["text"] for b in self._data.find({"_id": {"$in": list(self._held)}})}
        return [
            f"a reader that found a node finds no body of it: {node_id}"
            for node_id, text in self._held.items()
            if bodies.get(node_id) != text
        ]


@contextmanager
def reading(rs: Ragstore, judges: Sequence[Judge], *, process: Order | None = None) -> Iterator[Counter[str]]:
    """Readers for the length of the block, one thread per judge; fails if one saw something wrong.

    Args:
        process: settings of one more reader, in a process of its own, that judges as the first of the threads.
    """
    over = threading.Event()
    looks: Counter[str] = Counter()
    wrong: list[str] = []

    def look(judge: Judge) -> None:
        try:
            n_looks, found = look_until(rs, judge, over)
        except Exception as error:  # edge of the thread: nothing that a reader meets may stay unsaid
            n_looks, found = 0, [f"a reader failed: {error!r}"]
        looks["by threads"] += n_looks
        wrong.extend(found)

    threads = [threading.Thread(target=look, args=(judge,), name="reader") for judge in judges]
    other_over = context.Event() if process else None
    other = Child(Order("read", (judges[0], other_over), process.env)) if process else None
    for thread in threads:
        thread.start()
    try:
        yield looks
    finally:
        over.set()
        for thread in threads:
            thread.join()
        if other and other_over:
            other_over.set()
            try:
                n_looks, found = other.end().result
            finally:
                other.kill()
            looks["by processes"] += n_looks
            wrong += found
    assert looks["by threads"] >= len(threads), "a reader never looked"
    assert not wrong, "\n".join(wrong[:20])
