"""Runs of pipelines, whose nodes wait for the documents that they were cut from.

A run that removes duplicates asks the document store before it cuts, adds nodes with vectors next, and the documents
themselves at its end. So all of a document, its hash included, can be published at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ragstore.llama.draft import Embedded
from ragstore.llama.operation import place
from ragstore.llama.rewriting import pipeline_run

_MAX_RUNS = 1_000


@dataclass(slots=True)
class Run:
    """What a run has brought so far.

    Args:
        begun_in: thread and task.
        hashes: of its documents, as it told them.
    """

    begun_in: tuple[int, int]
    nodes: list[Embedded] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def documents(self) -> set[str]:
        """Those of which it has brought nodes."""
        return {each.stored.document_id for each in self.nodes if each.stored.document_id is not None}


class Runs:
    """The runs that use the document store of one collection; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def asked(self) -> None:
        """The document store was asked; where a run does, it also gives the documents at its end."""
        name = pipeline_run()
        if name is None:
            return
        here = place()
        with self._lock:
            if name in self._runs:
                return
            for failed in [i for i, run in self._runs.items() if run.begun_in == here and run.nodes]:
                del self._runs[failed]
            self._runs[name] = Run(here)
            idle = [i for i, run in self._runs.items() if not run.nodes]
            for i in idle[: max(0, len(idle) - _MAX_RUNS)]:
                del self._runs[i]

    def hold(self, nodes: Sequence[Embedded]) -> bool:
        """Keep nodes until the end of the caller's run; False where it will not be known."""
        with self._lock:
            run = self._run()
            if run is not None:
                run.nodes += nodes
            return run is not None

    def told(self, hashes: Mapping[str, str]) -> dict[str, str]:
        """The run told hashes; returns those of documents of which it has brought no nodes."""
        with self._lock:
            run = self._run()
            if run is None:
                return dict(hashes)
            documents = run.documents
            run.hashes |= {i: doc_hash for i, doc_hash in hashes.items() if i in documents}
            return {i: doc_hash for i, doc_hash in hashes.items() if i not in documents}

    def take(self) -> Run | None:
        """What the caller's run has brought, at its end."""
        name = pipeline_run()
        with self._lock:
            return None if name is None else self._runs.pop(name, None)

    def _run(self) -> Run | None:
        name = pipeline_run()
        return None if name is None else self._runs.get(name)
