"""Graphs of a persist_dir: plain triplets come over, a property graph is only counted."""

from __future__ import annotations

from collections.abc import Iterator

from ragstore.errors import InvalidNodeError
from ragstore.model.graph import MAX_RELATION_BYTES, checked_key
from ragstore.model.storable import storable_text
from ragstore.postgres.triplets import Triplet
from ragstore.transfer.json_entries import Entry
from ragstore.transfer.persist_dir import GRAPH_STORE, PROPERTY_GRAPH_STORE, PersistDir

_AT_ONCE = 1_000


def triplets(source: PersistDir) -> Iterator[list[Triplet | str]]:
    """The triplets of the graph store in batches; in the place of one that cannot come over stands why.

    Raises:
        TransferError: the file is damaged.
    """
    batch: list[Triplet | str] = []
    for entry in source.entries(GRAPH_STORE) if source.has(GRAPH_STORE) else ():
        if entry.section == "graph_dict" and entry.key is not None:
            batch += _of_subject(entry)
        if len(batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def n_in_property_graph(source: PersistDir) -> int:
    """Nodes and relations of the property graph."""
    found = 0
    for entry in source.entries(PROPERTY_GRAPH_STORE) if source.has(PROPERTY_GRAPH_STORE) else ():
        found += entry.section in ("nodes", "relations") and entry.key is not None
    return found


def _of_subject(entry: Entry) -> Iterator[Triplet | str]:
    for each in entry.value if isinstance(entry.value, list) else ():
        if not isinstance(each, list) or len(each) != 2:
            yield f"{entry.key}: no relation and object"
            continue
        subject, relation, other = (storable_text(str(part)) for part in (entry.key, *each))
        try:
            yield (
                checked_key(subject, "subject"),
                checked_key(relation, "relation", MAX_RELATION_BYTES),
                checked_key(other, "object"),
            )
        except InvalidNodeError as error:
            yield error.message
