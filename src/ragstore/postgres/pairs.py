"""Key-value pairs of the nodes' metadata, by which a search skips nodes that a filter cannot allow.

Each row of a segment's table has the hashes of its node's pairs, ``SLOTS`` at most. The first bits of a hash are its
bucket. For each bucket the table ``segment_pair`` has one bit per region and cell of a segment's tree: whether it has a
node with such a pair. So a search with a filter descends only where allowed nodes may be, and compares only nodes that
may be allowed. Different pairs can have equal hashes, so each result is checked in the node's own metadata (decision
record 0017).
"""

from __future__ import annotations

import io
import json
import struct
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstore.model.collection import Collection
from ragstore.model.filters import DOCUMENT_KEYS, Condition, Filter, Group
from ragstore.postgres.copy import HEADER, TRAILER
from ragstore.postgres.filters import is_storable
from ragstore.postgres.pool import Connection, Cursor

SLOTS = 16
"""Hashes of two bytes in a row's ``pairs``, unused ones 0; of a node with more pairs all are ``ANYTHING``."""

ANYTHING = 0xFFFF
BUCKET_BITS = 12

_MAX_VALUES = 8
"""A condition with more values is not looked up."""

_N_AT_ONCE = 65_536

_LOOK_UP = """
SELECT asked.hash, coalesce(sum(pair.n_nodes), 0)::float8, coalesce(sum(pair.n_around), 0)::float8
FROM (
    SELECT place, ragstore.pair(key, value::jsonb) AS hash
    FROM unnest(%(keys)s::text[], %(values)s::text[]) WITH ORDINALITY AS asked (key, value, place)
) AS asked
LEFT JOIN ragstore.segment_pair AS pair ON pair.collection_id = %(collection_id)s
    AND pair.number = ANY (%(numbers)s) AND pair.bucket = ragstore.bucket(asked.hash)
GROUP BY asked.place, asked.hash ORDER BY asked.place
"""
_FORGET = "DELETE FROM ragstore.segment_pair WHERE collection_id = %s AND number = ANY (%s)"
_COPY = """
COPY ragstore.segment_pair (collection_id, number, bucket, n_nodes, n_around, groups) FROM STDIN (FORMAT binary)
"""
_row = struct.Struct(">hiqiqihiiiiii").pack

Pairs = NDArray[np.uint16]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Some:
    """Condition of a filter on pairs: an allowed node has one of some pairs, or fulfils all parts, or one of them.

    Args:
        places: of the pairs in a list of all, where ``parts`` is empty.
    """

    joiner: str
    places: tuple[int, ...] = ()
    parts: tuple[Some, ...] = ()

    def sql(self, of_one: Callable[[tuple[int, ...]], str]) -> str:
        """As a condition, made of the conditions on a node or a group that has one of some pairs."""
        if not self.parts:
            return of_one(self.places)
        return "(" + f" {self.joiner.upper()} ".join(part.sql(of_one) for part in self.parts) + ")"

    def leaves(self) -> Iterator[tuple[int, ...]]:
        """The places of each condition."""
        if not self.parts:
            yield self.places
        for part in self.parts:
            yield from part.leaves()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The pairs of a filter, and how often the segments of a collection have them.

    Args:
        some: how they are joined; hashable, so that statements can be kept by it.
        hashes: of each pair, two bytes.
        n_nodes: nodes with such pairs in trees, about.
        n_around: nodes in the cells in which those are, about.
    """

    some: Some
    hashes: Sequence[bytes]
    n_nodes: float
    n_around: float

    def parameters(self) -> dict[str, Any]:
        """Of the conditions that ``node_condition`` and ``group_condition`` make."""
        buckets = [int.from_bytes(one, "big") >> (16 - BUCKET_BITS) for one in self.hashes]
        return {f"pair_{place}": one for place, one in enumerate(self.hashes)} | {
            f"buckets_{places[0]}": [buckets[place] for place in places] for places in self.some.leaves()
        }


class _Recent:
    """Cache of the most recent results."""

    def __init__(self, n_most: int) -> None:
        self._found: dict[Hashable, Wanted] = {}
        self._n_most = n_most
        self._lock = threading.Lock()

    def get(self, what: Hashable) -> Wanted | None:
        return self._found.get(what)

    def keep(self, what: Hashable, found: Wanted) -> None:
        with self._lock:
            if len(self._found) >= self._n_most:
                del self._found[next(iter(self._found))]
            self._found[what] = found


_recent = _Recent(1_000)


def find_wanted(connection: Connection, collection: Collection, tree: Filter | None) -> Wanted | None:
    """Condition of a filter on pairs; None if it has none, or if no segment has a tree."""
    numbers = tuple(segment.number for segment in collection.segments if segment.n_cells)
    some, pairs = said_by(tree) if tree is not None and numbers else (None, ())
    if some is None:
        return None
    keys, values = tuple(key for key, _ in pairs), tuple(json.dumps(value) for _, value in pairs)
    # Segments do not change: what was found stays true of them.
    what = (connection.dsn, connection.schema, collection.collection_id, numbers, some, keys, values)
    found = _recent.get(what)
    if found is None:
        parameters = {"keys": list(keys), "values": list(values), "numbers": list(numbers)}
        with connection.cursor() as cursor:
            cursor.execute(_LOOK_UP, parameters | {"collection_id": collection.collection_id})
            hashes, n_nodes, n_around = zip(*cursor.fetchall(), strict=True)
        found = Wanted(some, [bytes(one) for one in hashes], _number(some, n_nodes), _number(some, n_around))
        _recent.keep(what, found)
    return found


def said_by(tree: Filter) -> tuple[Some | None, Sequence[tuple[str, Any]]]:
    """Condition of a filter on pairs, if any, and the keys and values of these pairs."""
    pairs: list[tuple[str, Any]] = []
    some = _some(tree, pairs)
    return some, pairs if some is not None else ()


def node_condition(some: Some) -> str:
    """Whether a row of a segment's table may be a node that is allowed, as SQL."""
    anything = b"\xff" * 2 * SLOTS

    def of_one(places: tuple[int, ...]) -> str:
        tests = [f"position(%(pair_{place})s::bytea IN pairs) > 0" for place in places]
        return "(" + " OR ".join([*tests, f"pairs = '\\x{anything.hex()}'"]) + ")"

    return some.sql(of_one)


def group_condition(some: Some, mask: str) -> str:
    """Whether the region or cell ``id`` may have a node that is allowed, as SQL over what ``mask_sql`` made."""
    return some.sql(lambda places: f"get_bit((SELECT mask_{places[0]} FROM {mask}), id::integer) = 1")


def mask_sql(collection: Collection, number: int, some: Some) -> str:
    """One row: of each condition the groups of a segment that have a node with one of its pairs, as SQL."""
    masks = (
        # The operator makes a value that is not compressed: one bit of it is read for each group.
        "(SELECT bit_or(groups) | bit_or(groups) FROM ragstore.segment_pair "
        f"WHERE collection_id = {collection.collection_id:d} AND number = {number:d} "
        f"AND bucket = ANY (%(buckets_{places[0]})s)) AS mask_{places[0]}"
        for places in some.leaves()
    )
    return "SELECT " + ", ".join(masks)


def forget(cursor: Cursor, collection: Collection, numbers: Sequence[int]) -> None:
    """Delete the rows of ``segment_pair`` of some segments.

    Crash safety:
        A step of the caller's transaction.
    """
    cursor.execute(_FORGET, [collection.collection_id, list(numbers)])


class Groups:
    """Collects which regions and cells of a tree have which pairs, while the tree is written.

    Args:
        n_groups: regions and cells; they have the numbers from 1 to here.
    """

    def __init__(self, n_groups: int) -> None:
        self._n_bits = n_groups + 1
        self._bits = np.zeros((1 << BUCKET_BITS, (self._n_bits + 7) // 8), dtype=np.uint8)
        self._parents = np.zeros(self._n_bits, dtype=np.int64)
        self._sizes = np.zeros(self._n_bits, dtype=np.int64)
        self._n_nodes = np.zeros(1 << BUCKET_BITS, dtype=np.int64)
        self._n_alone = np.zeros(1 << BUCKET_BITS, dtype=np.int64)

    def add_groups(self, numbers: Numbers, parents: Numbers, sizes: Numbers) -> None:
        """Add regions, whose parent is 0, or cells; must be called before ``add_nodes`` for the nodes in them."""
        self._parents[numbers] = parents
        self._sizes[numbers] = np.where(parents > 0, sizes, 0)

    def add_nodes(self, groups: Numbers, pairs: Pairs) -> None:
        """Nodes, each in a cell, in a region or in none (0); ``pairs`` has shape ``(n, SLOTS)``."""
        for begin in range(0, len(groups), _N_AT_ONCE):
            part = slice(begin, begin + _N_AT_ONCE)
            for slot in range(SLOTS):
                self._add(groups[part], pairs[part, slot])
            anything = groups[part][pairs[part, 0] == ANYTHING]
            for group in {*anything.tolist(), *self._parents[anything].tolist()} - {0}:
                self._bits[:, group >> 3] |= np.uint8(0x80 >> (group & 7))

    def write(self, cursor: Cursor, collection: Collection, number: int) -> None:
        """Write the collected bits as those of a segment."""
        rows = io.BytesIO()
        rows.write(HEADER)
        for bucket in np.flatnonzero(self._bits.any(axis=1)).tolist():
            bits = self._bits[bucket]
            has = np.unpackbits(bits, count=self._n_bits).astype(bool)
            n_around = int(self._sizes[has].sum() + self._n_alone[bucket])
            packed = bits.tobytes()
            numbers = (8, collection.collection_id, 8, number, 2, bucket, 4, int(self._n_nodes[bucket]), 4, n_around)
            rows.write(_row(6, *numbers, 4 + len(packed), self._n_bits) + packed)
        rows.write(TRAILER)
        rows.seek(0)
        cursor.copy_expert(_COPY, rows, size=1 << 18)

    def _add(self, groups: Numbers, hashes: Pairs) -> None:
        used = np.flatnonzero((hashes != 0) & (hashes != ANYTHING))
        buckets, own = (hashes[used] >> (16 - BUCKET_BITS)).astype(np.int64), groups[used]
        parents = self._parents[own]
        for of_level in (own, parents):
            np.bitwise_or.at(self._bits, (buckets, of_level >> 3), (0x80 >> (of_level & 7)).astype(np.uint8))
        self._n_nodes += np.bincount(buckets, minlength=len(self._n_nodes))
        self._n_alone += np.bincount(buckets[parents == 0], minlength=len(self._n_alone))


def _some(tree: Filter, pairs: list[tuple[str, Any]]) -> Some | None:
    """The pairs are added to the list."""
    if isinstance(tree, Group):
        if tree.joiner == "not":
            return None
        parts = [_some(part, pairs) for part in tree.parts]
        known = tuple(part for part in parts if part is not None)
        if not known or (tree.joiner == "or" and len(known) < len(parts)):
            return None
        return Some(tree.joiner, parts=known)
    values = _values(tree)
    if not values or tree.key in DOCUMENT_KEYS or not is_storable(tree.key):
        return None
    if tree.operator == "all":
        return Some("and", parts=tuple(_one_of(tree.key, [value], pairs) for value in values))
    return _one_of(tree.key, values, pairs)


def _values(condition: Condition) -> Sequence[Any]:
    """Values of which a node that fulfils the condition has one, or with ``all`` each, as a value or in a list."""
    value = condition.value
    if condition.operator == "==" or (condition.operator == "contains" and not isinstance(value, str)):
        values: Sequence[Any] = [value]
    elif condition.operator in ("in", "any", "all") and isinstance(value, Sequence) and not isinstance(value, str):
        values = value
    else:
        return []
    return values if len(values) <= _MAX_VALUES and all(map(is_storable, values)) else []


def _one_of(key: str, values: Sequence[Any], pairs: list[tuple[str, Any]]) -> Some:
    places = tuple(range(len(pairs), len(pairs) + len(values)))
    pairs += [(key, value) for value in values]
    return Some("one", places)


def _number(some: Some, numbers: Sequence[float]) -> float:
    if not some.parts:
        return sum(numbers[place] for place in some.places)
    of_parts = [_number(part, numbers) for part in some.parts]
    return min(of_parts) if some.joiner == "and" else sum(of_parts)
