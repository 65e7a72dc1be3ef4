"""Nodes of one collection, compared in both stores; what looks like drift is asked again before it is called so."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ragstore.audit.origins import UnknownBody, judged
from ragstore.mongo.client import Document
from ragstore.mongo.scan import MongoScan
from ragstore.postgres.scan import PostgresScan, ScannedNode

_AT_ONCE = 1_000
_EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class AlteredBody:
    """A body that differs from its live node; ``stamp`` is the body's own."""

    node: ScannedNode
    stamp: object


@dataclass(slots=True)
class NodeDrift:
    """Confirmed drift among a thousand nodes or so."""

    missing: list[ScannedNode] = field(default_factory=list)
    altered: list[AlteredBody] = field(default_factory=list)
    doubled: list[ScannedNode] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unusable: list[ScannedNode] = field(default_factory=list)
    unknown: list[UnknownBody] = field(default_factory=list)


class NodeSurvey:
    """Compares all nodes of a collection.

    Args:
        deep: compare content and vectors too, not only which nodes there are.
        tell: called with the number of nodes compared, now and then.
    """

    def __init__(
        self, postgres: PostgresScan, mongo: MongoScan, *, deep: bool, tell: Callable[[int], None] = lambda _: None
    ) -> None:
        self._postgres = postgres
        self._mongo = mongo
        self._deep = deep
        self._tell = tell
        self.n_nodes = 0

    def drift(self) -> Iterator[NodeDrift]:
        """Confirmed drift, in batches; ``n_nodes`` is complete at the end.

        A node that a run in flight or the outbox names is on its way and no drift. One that changed between two looks
        is left alone: its writer is at work.
        """
        suspects: list[str] = []
        strangers: list[str] = []
        for live, stored in self._differences():
            suspects += live
            strangers += stored
            while len(suspects) >= _AT_ONCE:
                yield self._confirmed(suspects[:_AT_ONCE])
                del suspects[:_AT_ONCE]
            while len(strangers) >= _AT_ONCE:
                yield NodeDrift(unknown=self._unknown(strangers[:_AT_ONCE]))
                del strangers[:_AT_ONCE]
        if suspects:
            yield self._confirmed(suspects)
        if strangers:
            yield NodeDrift(unknown=self._unknown(strangers))

    def _differences(self) -> Iterator[tuple[list[str], list[str]]]:
        """Ids that PostgreSQL has and that MongoDB has not or has otherwise, and ids that only MongoDB has."""
        if self._deep:
            yield from self._deep_differences()
            return
        for live, stored in aligned(prefetched(self._postgres.node_ids()), prefetched(self._mongo.node_ids())):
            self._count(len(live))
            if live != stored:
                here, there = set(live), set(stored)
                yield [i for i in live if i not in there], [i for i in stored if i not in here]

    def _deep_differences(self) -> Iterator[tuple[list[str], list[str]]]:
        pieces = aligned(
            prefetched(self._postgres.nodes()),
            prefetched(self._mongo.bodies()),
            left_key=lambda node: node.node_id,
            right_key=lambda body: str(body["_id"]),
        )
        for live, stored in pieces:
            self._count(len(live))
            bodies = {body["_id"]: body for body in stored}
            wrong = [
                node.node_id
                for node in live
                if (body := bodies.pop(node.node_id, None)) is None
                or not is_body_of(body, node)
                or self._is_unusable(node)
            ]
            yield wrong, list(bodies)

    def _count(self, n_nodes: int) -> None:
        self.n_nodes += n_nodes
        self._tell(self.n_nodes)

    def _confirmed(self, ids: Sequence[str]) -> NodeDrift:
        """What is wrong with these live nodes.

        The ledger is asked before MongoDB and after. Stamps are never used again: a node with the same one both times,
        which nothing worked on, was in that state in between too.
        """
        before = self._postgres.states(ids)
        bodies = self._mongo.bodies_of(ids)
        nodes = self._postgres.nodes_of(ids)
        after = self._postgres.states(ids)
        drift = NodeDrift()
        for node_id in ids:
            stamp = before.settled(node_id)
            node = nodes.get(node_id)
            if stamp is None or node is None or not stamp == node.stamp == after.settled(node_id):
                continue
            self._sort(node, bodies.get(node_id), drift)
        self._find_doubled(drift)
        return drift

    def _sort(self, node: ScannedNode, body: Document | None, drift: NodeDrift) -> None:
        if body is None:
            drift.missing.append(node)
        elif node.content is None:
            drift.unreadable.append(node.node_id)
        elif self._deep and not is_body_of(body, node):
            drift.altered.append(AlteredBody(node, body.get("stamp")))
        if self._deep and self._is_unusable(node):
            drift.unusable.append(node)

    def _find_doubled(self, drift: NodeDrift) -> None:
        """Take rows that a foreign writer made from others out of those that lack a body.

        Proof is that the text stands in another row of the same place, which has a body, and that the ledger does not
        count the row, or that it holds another node than it says.
        """
        copies = self._postgres.copies([node.node_id for node in drift.missing])
        if copies:
            lines = self._postgres.lines_of([n.document_id for n in drift.missing if n.document_id is not None])
            uncounted = {i for i, line in lines.items() if line.n_rows > line.n_nodes}
            bodies = self._mongo.present([i for originals in copies.values() for i in originals])
            drift.doubled = [
                node
                for node in drift.missing
                if bodies.intersection(copies.get(node.node_id, ()))
                and (node.content is None or node.document_id in uncounted)
            ]
        doubled = {node.node_id for node in drift.doubled}
        drift.unreadable += [n.node_id for n in drift.missing if n.content is None and n.node_id not in doubled]
        drift.missing = [n for n in drift.missing if n.content is not None and n.node_id not in doubled]

    def _unknown(self, ids: Sequence[str]) -> list[UnknownBody]:
        """Those of these bodies that PostgreSQL knew nothing of, between two looks at which they were the same."""
        found = self._mongo.origins_of(ids)
        states = self._postgres.states(ids)
        again = self._mongo.origins_of(ids)
        origins = [o for i, o in found.items() if not states.knows(i) and i in again and again[i].stamp == o.stamp]
        return judged(self._postgres, self._mongo, origins) if origins else []

    def _is_unusable(self, node: ScannedNode) -> bool:
        # Vectors from outside are what their maker wants them to be.
        return node.usable is False and self._postgres.collection.space.model != _EXTERNAL


def is_body_of(body: Document, node: ScannedNode) -> bool:
    """Whether MongoDB holds that node in its present state."""
    stamp = body.get("stamp")
    return (
        body.get("__data__") == node.content
        and body.get("__type__") == node.type_key
        and (stamp == node.stamp or (node.staged and stamp == 0))
    )


L = TypeVar("L")
R = TypeVar("R")
T = TypeVar("T")


def prefetched(pages: Iterator[T]) -> Iterator[T]:
    """The same pages, each read in a thread while the one before is worked on; of few, two at most, none is."""
    first, second = next(pages, None), next(pages, None)
    if first is not None:
        yield first
    if second is None:
        return
    yield second
    with ThreadPoolExecutor(1, thread_name_prefix="ragstore-scan") as reader:
        coming = reader.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = reader.submit(next, pages, None)
            yield page


def aligned(
    left: Iterator[list[L]],
    right: Iterator[list[R]],
    *,
    left_key: Callable[[L], str] | None = None,
    right_key: Callable[[R], str] | None = None,
) -> Iterator[tuple[list[L], list[R]]]:
    """Pieces of both streams that cover the same range of keys, one after the other.

    Args:
        left: pages in ascending order of keys; Python orders strings as both databases order their UTF-8 bytes.
        left_key: of an item; the item itself where none is given.
    """
    left_rest: list[L] = []
    right_rest: list[R] = []
    while True:
        left_rest = left_rest or next(left, [])
        right_rest = right_rest or next(right, [])
        if not left_rest and not right_rest:
            return
        last = min(_last(rest, key) for rest, key in ((left_rest, left_key), (right_rest, right_key)) if rest)
        n_left, n_right = _upto(left_rest, last, left_key), _upto(right_rest, last, right_key)
        yield left_rest[:n_left], right_rest[:n_right]
        left_rest, right_rest = left_rest[n_left:], right_rest[n_right:]


def _last(items: list[Any], key: Callable[[Any], str] | None) -> str:
    return str(key(items[-1]) if key else items[-1])


def _upto(items: list[Any], last: str, key: Callable[[Any], str] | None) -> int:
    return bisect_right(items, last, key=key) if key else bisect_right(items, last)
