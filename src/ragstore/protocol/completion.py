"""Completion of documents that are written directly.

It records a document's hash and deletes the nodes of former versions. A document has no hash until it is declared
complete, so that it is added again after its writer was killed.
"""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ragstore.postgres.change import Change, NodeLocation


@dataclass(frozen=True, slots=True)
class Completion:
    """Declares a document complete, with the full set of its node ids.

    Args:
        node_ids: nodes with a vector that were added since the document was begun.
        body_ids: the same for nodes without a vector; if empty, the document's bodies stay as they are.
        emptied: this writer knows no node of this version: nodes cut from other versions are deleted.
    """

    document_id: str
    doc_hash: str
    node_ids: frozenset[str] = frozenset()
    body_ids: frozenset[str] = frozenset()
    emptied: bool = False


@dataclass(frozen=True, slots=True)
class DocumentUpdates:
    """Changes to the documents of a write, in addition to its nodes.

    Args:
        replace_existing: documents whose former nodes are replaced by the nodes of the write.
        completions: documents that are complete after the write.
        own_hashes: hashes by document, applied only to documents without any vector.
        bare: documents in ``own_hashes`` that were written whole and have no node: nodes cut from other versions
            are deleted.
    """

    replace_existing: Ids[str] = ()
    completions: Sequence[Completion] = ()
    own_hashes: Mapping[str, str] = field(default_factory=dict)
    bare: Ids[str] = ()


def complete(
    change: Change, updates: DocumentUpdates, locations: Mapping[str, NodeLocation], just_written: set[str]
) -> None:
    """Record which documents a change completes, and delete what is not part of them; they must be locked.

    Args:
        locations: live nodes among those that the completions name.
        just_written: ids of nodes that the change has put.
    """
    if not updates.completions and not updates.own_hashes:
        return
    states = change.states([*(c.document_id for c in updates.completions), *updates.own_hashes])
    existing = just_written.union(locations)
    is_whole = [existing.issuperset(c.node_ids | c.body_ids) for c in updates.completions]
    whole = [c for c, holds in zip(updates.completions, is_whole, strict=True) if holds]
    broken = [c for c, holds in zip(updates.completions, is_whole, strict=True) if not holds]
    gone = _remove_former(change, whole)
    # Another writer completed the document first: drop the nodes that this one added.
    superseded = [c for c in broken if states[c.document_id].doc_hash is not None]
    left_over = [i for i in completion_ids(superseded) if i in locations]
    if left_over:
        gone += change.delete_nodes(left_over)
        recount(change, {c.document_id for c in superseded})
    hashes = {c.document_id: c.doc_hash for c in whole}
    own = {i: doc_hash for i, doc_hash in updates.own_hashes.items() if i not in hashes}
    bare = {i: own[i] for i in updates.bare if i in own}
    outdated = change.delete_other_versions(bare) if bare else []
    without = change.without_vectors(list(own)) if own else []
    if outdated:
        gone += outdated
        recount(change, bare.keys() - set(without))
    hashes |= {i: own[i] for i in without}
    new = {i: doc_hash for i, doc_hash in hashes.items() if gone or states[i].doc_hash != doc_hash}
    if new:
        change.set_hashes(new)
        change.add_events([(i, "completed", 0, None) for i in new])
    change.queue(delete=gone, ref_docs=[*new, *(c.document_id for c in superseded), *(bare if outdated else ())])


def _remove_former(change: Change, whole: Sequence[Completion]) -> list[str]:
    """Delete nodes that are not part of documents that are complete now; returns their ids."""
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


def recount(change: Change, document_ids: Iterable[str]) -> None:
    """Update the ledger for documents that lost nodes; a document without any is deleted."""
    counted = change.recount_documents(document_ids) if document_ids else {}
    gone = [i for i, is_gone in counted.items() if is_gone]
    if gone:
        # A node that is the document itself has no meaning without its parts.
        change.queue(delete=change.delete_nodes_of(gone))
    change.add_events([(i, "deleted" if gone else "updated", 0, None) for i, gone in counted.items()])


def completion_ids(completions: Sequence[Completion]) -> list[str]:
    return [i for c in completions for i in c.node_ids | c.body_ids]
