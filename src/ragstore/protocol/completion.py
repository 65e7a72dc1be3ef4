"""When a document that was written directly is complete, and what then goes."""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ragstore.postgres.direct import DirectChange, Place


@dataclass(frozen=True, slots=True)
class Closing:
    """The word that a document is complete: these nodes are all of it.

    Args:
        node_ids: nodes with a vector, as they were added since the document was begun.
        body_ids: the same for nodes without; where there are none, the document's bodies stay as they are.
        emptied: a version without any node that this writer knows of: nodes cut from other versions go.
    """

    document_id: str
    doc_hash: str
    node_ids: frozenset[str] = frozenset()
    body_ids: frozenset[str] = frozenset()
    emptied: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What is known of the documents of a write, beside the nodes.

    Args:
        anew: documents whose former nodes these nodes replace.
        closings: documents that are complete once this is written.
        own_hashes: hashes that count only for documents without a single vector.
        bare: those of these documents that were brought whole and have no node: nodes cut from other versions go.
    """

    anew: Ids[str] = ()
    closings: Sequence[Closing] = ()
    own_hashes: Mapping[str, str] = field(default_factory=dict)
    bare: Ids[str] = ()


def complete(change: DirectChange, completion: Completion, places: Mapping[str, Place], just_written: set[str]) -> None:
    """Settle the completion of a change whose documents are locked."""
    if not completion.closings and not completion.own_hashes:
        return
    states = change.states([*(c.document_id for c in completion.closings), *completion.own_hashes])
    there = just_written.union(places)
    is_whole = [there.issuperset(c.node_ids | c.body_ids) for c in completion.closings]
    whole = [c for c, holds in zip(completion.closings, is_whole, strict=True) if holds]
    broken = [c for c, holds in zip(completion.closings, is_whole, strict=True) if not holds]
    gone = _remove_former(change, whole)
    # Somebody else closed the document after this writer began it: what this one added since is too much.
    beaten = [c for c in broken if states[c.document_id].doc_hash is not None]
    left_over = [i for i in closing_ids(beaten) if i in places]
    if left_over:
        gone += change.delete_nodes(left_over)
        settle(change, {c.document_id for c in beaten})
    hashes = {c.document_id: c.doc_hash for c in whole}
    own = {i: doc_hash for i, doc_hash in completion.own_hashes.items() if i not in hashes}
    bare = {i: own[i] for i in completion.bare if i in own}
    outdated = change.delete_other_versions(bare) if bare else []
    without = change.without_vectors(list(own)) if own else []
    if outdated:
        gone += outdated
        settle(change, bare.keys() - set(without))
    hashes |= {i: own[i] for i in without}
    new = {i: doc_hash for i, doc_hash in hashes.items() if gone or states[i].doc_hash != doc_hash}
    if new:
        change.set_hashes(new)
        change.add_events([(i, "completed", 0) for i in new])
    change.queue(delete=gone, ref_docs=[*new, *(c.document_id for c in beaten), *(bare if outdated else ())])


def _remove_former(change: DirectChange, whole: Sequence[Closing]) -> list[str]:
    """Take out what is not part of documents that are complete now; returns the node ids."""
    vectors = [c for c in whole if c.node_ids]
    emptied = {c.document_id: c.doc_hash for c in whole if c.emptied}
    bodies = [c for c in whole if c.body_ids]
    gone: list[str] = []
    if vectors:
        keep = [i for c in vectors for i in c.node_ids]
        gone += change.delete_other_vectors([c.document_id for c in vectors], keep)
    if emptied:
        gone += change.delete_other_versions(emptied)
    if bodies:
        keep = [i for c in bodies for i in c.body_ids]
        gone += change.delete_other_bodies([c.document_id for c in bodies], keep)
    return gone


def settle(change: DirectChange, document_ids: Iterable[str]) -> None:
    """Bring the ledger up to date for documents that lost nodes."""
    settled = change.settle_documents(document_ids) if document_ids else {}
    gone = [i for i, is_gone in settled.items() if is_gone]
    if gone:
        # What was put of the document itself stood for its parts.
        change.queue(delete=change.delete_nodes_of(gone))
    change.add_events([(i, "deleted" if gone else "updated", 0) for i, gone in settled.items()])


def closing_ids(closings: Sequence[Closing]) -> list[str]:
    """All nodes that closings name."""
    return [i for c in closings for i in c.node_ids | c.body_ids]
