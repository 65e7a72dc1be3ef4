"""When a document counts as complete, by the calls that LlamaIndex code makes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index_instrumentation.span import active_span_id

from ragstore.llama.draft import Embedded, Part
from ragstore.llama.drafts import PendingDocuments
from ragstore.llama.instrumentation import (
    current_update,
    is_pipeline_run,
    new_operation,
    own_operation,
    this_operation,
    whole_document_call,
)
from ragstore.llama.nodes import to_node
from ragstore.protocol.completion import Completion

ME, OTHER = 1, 2


def a_part(*node_ids: str, of: str | None = "h1") -> Part:
    return Part(list(node_ids), of)


def closed(*node_ids: str, document: str = "d", doc_hash: str = "h1") -> Completion:
    return Completion(document, doc_hash, frozenset(node_ids))


def nodes_of(document: str, names: str, *, of: str = "h1") -> list[Embedded]:
    """Nodes named ``document`` + letter, linked with their neighbours in the alphabet from a to d."""
    nodes = []
    for name in names:
        relationships = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document, hash=of)}
        if name > "a":
            relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(node_id=f"{document}{chr(ord(name) - 1)}")
        if name < "d":
            relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=f"{document}{chr(ord(name) + 1)}")
        node = TextNode(id_=f"{document}{name}", text=name, relationships=dict(relationships))
        nodes.append(Embedded(node, to_node(node), np.zeros(1, dtype=np.float32)))
    return nodes


def ids(nodes: Sequence[Embedded]) -> list[str]:
    return [each.stored.node_id for each in nodes]


def test_a_hash_told_after_the_nodes_closes_the_document() -> None:
    drafts = PendingDocuments()
    drafts.added({"d": a_part("n1")}, "vectors", owner=ME)
    drafts.added({"d": a_part("n2")}, "vectors", owner=ME)
    assert drafts.hash_set("d", "h1", owner=ME) == closed("n1", "n2")


def test_a_hash_told_before_the_nodes_makes_the_first_of_them_replace_the_former() -> None:
    drafts = PendingDocuments()
    assert drafts.hash_set("d", "h1", owner=ME) is None
    assert drafts.starting({"d": a_part("n1"), "e": a_part("m")}, "vectors", owner=ME) == {"d"}
    drafts.added({"d": a_part("n1")}, "vectors", owner=ME)
    assert drafts.starting({"d": a_part("n2")}, "vectors", owner=ME) == set()
    drafts.added({"d": a_part("n2")}, "vectors", owner=ME)
    assert drafts.completed_at_end(OTHER) == []
    assert drafts.completed_at_end(ME) == [closed("n1", "n2")]
    drafts.closed(drafts.completed_at_end(ME))
    assert drafts.completed_at_end(ME) == []


def test_vectors_and_bodies_of_a_document_replace_only_their_own_kind() -> None:
    drafts = PendingDocuments()
    drafts.hash_set("d", "h1", owner=ME)
    drafts.added({"d": a_part("n1")}, "vectors", owner=ME)
    assert drafts.starting({"d": a_part("b1")}, "bodies", owner=ME) == {"d"}
    assert drafts.starting({"d": a_part("n1")}, "bodies", owner=ME) == set(), "it has its vector already"


def test_nodes_from_elsewhere_do_not_replace_what_was_announced_for_another_version() -> None:
    drafts = PendingDocuments()
    drafts.hash_set("d", "h2", owner=ME)
    assert drafts.starting({"d": a_part("extra", of="h1")}, "vectors", owner=OTHER) == set()
    drafts.added({"d": a_part("extra", of="h1")}, "vectors", owner=OTHER)
    assert drafts.completed_at_end(ME) == []


def test_a_transformation_may_change_the_hash_within_one_operation() -> None:
    drafts = PendingDocuments()
    drafts.hash_set("d", "raw", owner=ME)
    assert drafts.starting({"d": a_part("n", of="cleaned")}, "vectors", owner=ME) == {"d"}
    drafts.added({"d": a_part("n", of="cleaned")}, "vectors", owner=ME)
    assert drafts.completed_at_end(ME) == [closed("n", doc_hash="raw")]


def test_what_was_announced_and_did_not_come_is_given_up_at_the_end() -> None:
    drafts = PendingDocuments()
    drafts.hash_set("d", "h1", owner=ME)
    drafts.drop_announced(ME)
    assert drafts.starting({"d": a_part("n")}, "vectors", owner=ME) == set()


def test_a_hash_that_waits_is_closed_with_its_document_or_when_something_else_is_asked() -> None:
    drafts = PendingDocuments()
    drafts.added({"d": a_part("n"), "e": a_part("m")}, "vectors", owner=ME)
    drafts.hashes_set({"d": "h1", "e": "h1", "empty": "h1"}, owner=ME)
    completions, own = drafts.completed_with({"d": "h1", "empty": "h1", "untold": "h1"})
    assert completions == [closed("n"), Completion("empty", "h1", emptied=True)]
    assert own == {"untold": "h1"}
    drafts.closed(completions)
    assert drafts.waiting() == [closed("m", document="e")]


def test_deleted_nodes_and_documents_are_forgotten() -> None:
    drafts = PendingDocuments()
    drafts.added({"d": a_part("n1", "n2"), "e": a_part("m")}, "vectors", owner=ME)
    drafts.forget_nodes(["n1"])
    drafts.forget_documents(["e"])
    assert drafts.hash_set("d", "h1", owner=ME) == closed("n2")
    assert drafts.hash_set("e", "h1", owner=ME) is None


def test_an_announced_document_is_held_back_until_its_last_node_comes() -> None:
    drafts = PendingDocuments()
    drafts.hash_set("c", "h1", owner=ME)
    drafts.hash_set("d", "h1", owner=ME)
    first = drafts.release([*nodes_of("c", "abcd"), *nodes_of("d", "ab")], owner=ME)
    assert ids(first) == ["ca", "cb", "cc", "cd"]
    assert drafts.is_held("d", "da", owner=ME) and not drafts.is_held("c", "ca", owner=ME)
    assert drafts.release(nodes_of("d", "c"), owner=ME) == []
    assert ids(drafts.release(nodes_of("d", "d"), owner=ME)) == ["da", "db", "dc", "dd"]


def test_a_document_that_was_not_announced_is_never_held_back() -> None:
    drafts = PendingDocuments()
    assert ids(drafts.release(nodes_of("d", "ab"), owner=ME)) == ["da", "db"]


def test_a_held_document_is_whole_when_the_operation_goes_on_to_the_next() -> None:
    drafts = PendingDocuments()
    for document in "de":
        drafts.hash_set(document, "h1", owner=ME)
    assert drafts.release(nodes_of("d", "abc"), owner=ME) == [], "a filter dropped the last node"
    assert ids(drafts.release(nodes_of("e", "abcd"), owner=ME)) == ["da", "db", "dc", "ea", "eb", "ec", "ed"]


def test_what_a_failed_operation_held_back_is_dropped_by_the_next() -> None:
    for begin_again in (True, False):
        drafts = PendingDocuments()
        drafts.hash_set("d", "h1", owner=ME)
        drafts.release(nodes_of("d", "ab"), owner=ME)
        if begin_again:
            drafts.hash_set("e", "h1", owner=ME)
        assert ids(drafts.release(nodes_of("e", "abcd"), owner=ME)) == ["ea", "eb", "ec", "ed"]
        assert drafts.documents_held_by(ME) == []


def test_a_held_document_that_is_begun_again_is_not_doubled() -> None:
    drafts = PendingDocuments()
    drafts.hash_set("d", "h1", owner=ME)
    drafts.release(nodes_of("d", "ab"), owner=ME)
    assert ids(drafts.release(nodes_of("d", "abcd"), owner=ME)) == ["da", "db", "dc", "dd"]


@pytest.fixture
def update() -> Iterator[str]:
    """Within an ``update_ref_doc`` of LlamaIndex."""
    with CallbackManager().as_trace("update_ref_doc"):
        yield "update_ref_doc"


def test_what_an_update_deleted_is_replaced_by_the_first_nodes_that_it_brings(update: str) -> None:
    drafts = PendingDocuments()
    drafts.replace("d", 7, update=update, owner=ME)
    assert drafts.not_written(update) == drafts.not_written(update, "d") == {"d": 7}
    assert drafts.not_written(update, "other") == drafts.not_written("of another run") == drafts.not_written(None) == {}
    parts = {"d": a_part("n", of="h2")}
    assert drafts.starting(parts, "vectors", owner=OTHER) == {"d"} == drafts.deleted_unwritten(["d", "e"])
    drafts.added(parts, "vectors", owner=OTHER)
    assert drafts.not_written(update) == {} and drafts.deleted_unwritten(["d"]) == set()
    assert drafts.hash_set("d", "h2", owner=OTHER) == closed("n", doc_hash="h2")


def test_what_an_update_deleted_is_held_back_until_its_last_node_comes(update: str) -> None:
    drafts = PendingDocuments()
    drafts.replace("d", 7, update=update, owner=ME)
    assert drafts.release(nodes_of("d", "ab"), owner=ME) == []
    assert ids(drafts.held_in(update, "d")) == ["da", "db"] and drafts.held_in(update, "e") == []
    assert drafts.not_written(update) == {}


def test_nodes_that_come_after_the_update_replace_nothing() -> None:
    drafts = PendingDocuments()
    drafts.replace("d", 7, update="update_ref_doc", owner=ME)
    assert drafts.starting({"d": a_part("n")}, "vectors", owner=ME) == set()
    assert ids(drafts.release(nodes_of("d", "ab"), owner=ME)) == ["da", "db"]
    drafts.added({"d": a_part("n")}, "vectors", owner=ME)
    assert drafts.hash_set("d", "h1", owner=ME) == closed("n")


def test_updates_that_failed_are_forgotten_after_a_thousand_others() -> None:
    drafts = PendingDocuments()
    for i in range(1_500):
        drafts.replace(f"d{i}", 7, update=f"run {i}", owner=ME)
    assert drafts.not_written("run 0") == {} and drafts.not_written("run 1499") == {"d1499": 7}


def test_nodes_of_an_insert_that_failed_are_no_part_of_the_next() -> None:
    drafts, callbacks = PendingDocuments(), CallbackManager()
    for first in "ax":
        with callbacks.as_trace("insert"):
            with callbacks.as_trace("insert_nodes"):
                for name in (first, f"{first}2"):
                    drafts.drop_stale({"d": a_part(name)}, owner=ME)
                    begun = drafts.starting({"d": a_part(name)}, "vectors", owner=ME)
                    assert begun == ({"d"} if name == first else set())
                    drafts.added({"d": a_part(name)}, "vectors", owner=ME)
            closing = drafts.hash_set("d", "h1", owner=ME) if first == "x" else None
    assert closing == closed("x", "x2")


def test_two_inserts_of_one_document_at_once_know_nothing_of_each_other() -> None:
    drafts, callbacks = PendingDocuments(), CallbackManager()
    with callbacks.as_trace("insert"):
        for owner, name in [(ME, "a1"), (OTHER, "b1"), (ME, "a2"), (OTHER, "b2")]:
            drafts.drop_stale({"d": a_part(name)}, owner=owner)
            assert drafts.starting({"d": a_part(name)}, "vectors", owner=owner) == ({"d"} if "1" in name else set())
            assert drafts.written_before(["d"], owner=owner) == ({} if "1" in name else {"d": [name.replace("2", "1")]})
            drafts.added({"d": a_part(name)}, "vectors", owner=owner)
        assert drafts.hash_set("d", "h1", owner=ME) == closed("a1", "a2")
        assert drafts.hash_set("d", "h1", owner=OTHER) == closed("b1", "b2")


def test_an_insert_is_held_back_until_all_that_its_nodes_name_has_come() -> None:
    drafts, callbacks = PendingDocuments(), CallbackManager()
    with callbacks.as_trace("insert"):
        for names, released in [("ab", []), ("c", []), ("d", ["da", "db", "dc", "dd"])]:
            drafts.drop_stale({"d": a_part(*(f"d{name}" for name in names))}, owner=ME)
            assert ids(drafts.release(nodes_of("d", names), owner=ME)) == released
        assert ids(drafts.held_by_insert("d", owner=ME)) == ["da", "db", "dc"]
        drafts.drop_stale({"e": a_part("ea")}, owner=OTHER)
        assert ids(drafts.release(nodes_of("e", "a"), owner=OTHER, ends=False)) == ["ea"], "nobody would write it"


def test_nodes_that_are_neighbours_or_come_by_themselves_add_up() -> None:
    drafts = PendingDocuments()
    drafts.added({"d": a_part("a")}, "vectors", owner=ME)
    token = active_span_id.set("IngestionPipeline.run-1")
    part = Part(["b"], "h1", frozenset({"a"}))
    drafts.drop_stale({"d": part}, owner=ME)
    drafts.added({"d": part}, "vectors", owner=ME)
    active_span_id.reset(token)
    drafts.drop_stale({"d": a_part("c")}, owner=ME)
    drafts.added({"d": a_part("c")}, "vectors", owner=ME)
    assert drafts.hash_set("d", "h1", owner=ME) == closed("a", "b", "c")


def test_a_delete_within_a_transformation_or_outside_an_update_is_meant() -> None:
    assert current_update() is None and whole_document_call() is None
    with CallbackManager().as_trace("update_ref_doc"):
        assert current_update() == "update_ref_doc" and not is_pipeline_run(current_update())
        token = active_span_id.set("Cleaning.__call__-1")
        assert current_update() is None
        active_span_id.reset(token)
    token = active_span_id.set("IngestionPipeline.arun-1")
    assert current_update() == whole_document_call() == "IngestionPipeline.arun-1" and is_pipeline_run(current_update())
    active_span_id.reset(token)


def test_memory_is_bounded_where_no_hash_is_ever_told() -> None:
    drafts = PendingDocuments()
    for i in range(10_500):
        drafts.added({f"d{i}": a_part(f"n{i}")}, "vectors", owner=ME)
    assert drafts.n_nodes("d0", owner=ME) == 0 and drafts.n_nodes("d10499", owner=ME) == 1


def test_operations_follow_into_tasks_and_threads_and_are_told_apart() -> None:
    async def inherited() -> tuple[int, int]:
        return this_operation(), await asyncio.to_thread(this_operation)

    async def announcing() -> int:
        return own_operation()

    async def begun_each() -> tuple[int, int]:
        return await asyncio.gather(announcing(), announcing())

    mine = new_operation()
    assert this_operation() == own_operation() == mine
    assert asyncio.run(inherited()) == (mine, mine)
    a, b = asyncio.run(begun_each())
    assert len({a, b, mine}) == 3
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(this_operation()))
    thread.start()
    thread.join()
    assert found[0] != mine
