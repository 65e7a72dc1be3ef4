"""Several processes and threads that write through LlamaIndex at once."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from ragstore.llama.nodes import to_node
from ragstore.model.node import Node
from ragstore.mongo.client import connect
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.ledger import Ledger
from ragstore.protocol.completion import Completion, DocumentUpdates
from ragstore.protocol.direct import DirectWriter, NewVectors
from ragstore.protocol.recover import Recoverer
from tests.support.llama_children import Place, some_documents
from tests.support.llama_faces import DIM, Faces, a_document


def test_four_processes_insert_at_once_and_all_of_it_is_there(faces: Faces, place: Place) -> None:
    names = ["abcde", "fghij", "klmno", "pqrst"]
    place.run_together([("insert", some_documents(1, part)) for part in names])
    documents = some_documents(1, "".join(names))
    faces.assert_holds(*documents)
    infos = faces.context().docstore.get_all_ref_doc_info()
    assert infos is not None
    assert {name: len(info.node_ids) for name, info in infos.items()} == {d.id_: 3 for d in documents}
    (struct,) = faces.mongo["index_store/data"].find()
    assert len(str(struct)) < 1000


@pytest.mark.parametrize("operation", ["from_documents", "insert", "refresh", "upserts", "duplicates_only"])
def test_four_processes_write_the_same_documents_at_once_and_they_are_there_once(
    faces: Faces, place: Place, operation: str
) -> None:
    documents = some_documents(1, "abcd", n_sentences=7)
    place.run_together([(operation, documents)] * 4)
    # Two of them may have been in each other's way in a document: then it has no hash, and is done again.
    assert place.run(operation, documents)
    faces.assert_holds(*documents)


def test_four_processes_write_one_document_together(faces: Faces, place: Place) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="shared")}
    nodes = [TextNode(id_=f"n{i}", text=f"text {i}", relationships=source) for i in range(40)]
    place.run_together([("insert_nodes", nodes[i::4] + nodes[:5]) for i in range(4)])
    assert faces.texts() == Counter(n.text for n in nodes)
    info = faces.context().docstore.get_ref_doc_info("shared")
    assert info is not None and set(info.node_ids) == {n.node_id for n in nodes}
    faces.assert_agree()


def a_node(node_id: str, document_id: str | None, text: str) -> Node:
    relationships = {} if document_id is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document_id)}
    return to_node(TextNode(id_=node_id, text=text, relationships=relationships))


def one_change(writer: DirectWriter, faces: Faces, chance: random.Random) -> None:
    """Anything that a program might do to some of few nodes of few documents."""
    ids = chance.sample([f"n{i}" for i in range(8)], chance.randint(1, 4))
    documents = [None, "d0", "d1", "d2"]
    nodes = [a_node(node_id, chance.choice(documents), f"{chance.random()}") for node_id in ids]
    named = [d for d in chance.sample(documents, 2) if d is not None]
    match chance.randrange(6):
        case 0 | 1:
            vectors = np.ones((len(nodes), DIM), np.float32)
            writer.put(faces.collection, NewVectors(nodes, vectors, replace_existing=chance.choice([(), named])))
        case 2:
            completions = [Completion(d, "h", frozenset(n.node_id for n in nodes if n.document_id == d)) for d in named]
            writer.add_bodies(faces.collection, nodes, DocumentUpdates(named[:1], completions, {"d2": "own"}))
        case 3:
            writer.delete_nodes(faces.collection, ids)
        case 4:
            writer.delete_documents(faces.collection, named)
        case 5:
            writer.mark_complete(faces.collection, [Completion(d, "h", frozenset(ids[:1])) for d in named])


@pytest.mark.timeout(120)
def test_whatever_many_writers_do_to_the_same_nodes_both_databases_agree_in_the_end(faces: Faces) -> None:
    seed = int(os.environ.get("RAGSTORE_TEST_SEED", random.randrange(10**9)))
    print(f"RAGSTORE_TEST_SEED={seed}")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(seed * 10 + number)
        writer = DirectWriter(faces.backend.pool, faces.backend.recoverer, worker=f"w{number}")
        try:
            for _ in range(40):
                one_change(writer, faces, chance)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    faces.assert_agree()


def test_one_context_serves_threads_and_event_loops_at_once(faces: Faces) -> None:
    index = faces.index()

    def in_loop(name: str) -> None:
        async def work() -> None:
            await asyncio.gather(*(index.ainsert(a_document(f"{name}{i}", n_sentences=2)) for i in range(4)))

        asyncio.run(work())

    threads = [threading.Thread(target=in_loop, args=(name,)) for name in "ab"]
    threads += [threading.Thread(target=index.insert, args=(a_document(f"c{i}", n_sentences=2),)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [f"{name}{i}" for name in "ab" for i in range(4)] + ["c0", "c1"]
    faces.assert_holds(*(a_document(name, n_sentences=2) for name in names))


def test_a_context_used_before_a_fork_works_in_the_child(faces: Faces, place: Place) -> None:
    context = faces.context()
    faces.index().insert(a_document("a"))
    # A second client of the server, equal to the first, which has been used too.
    other = connect(place.mongo_url)
    other.admin.command("ping")
    pid = os.fork()
    if pid == 0:
        try:
            warnings.filterwarnings("error", ".*fork.*")
            info = context.docstore.get_ref_doc_info("a")
            assert info is not None
            ids = info.node_ids
            for client in (faces.backend.client, other):
                client.admin.command("ping")
            ok = len(context.vector_store.get_nodes(ids)) == len(context.docstore.get_nodes(ids)) == 6
            os._exit(0 if ok else 1)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(faces.nodes_of("a")) == 6


class Interrupted(NodeStore):
    """MongoDB's nodes, where something happens just before a write, or just after."""

    def __init__(
        self, nodes: NodeStore, *, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
    ) -> None:
        super().__init__(nodes.database)
        self._before, self._after = before, after

    def put_nodes(self, *args: Any) -> None:
        self._once("_before")
        super().put_nodes(*args)
        self._once("_after")

    def put_ref_docs(self, *args: Any, **kwargs: Any) -> None:
        self._once("_before")
        super().put_ref_docs(*args, **kwargs)
        self._once("_after")

    def _once(self, name: str) -> None:
        happening = getattr(self, name)
        if happening is not None:
            setattr(self, name, None)
            happening()


def a_writer(faces: Faces, **happening: Callable[[], None]) -> DirectWriter:
    backend = faces.backend
    nodes = Interrupted(backend.nodes, **happening) if happening else backend.nodes
    return DirectWriter(backend.pool, Recoverer(backend.pool, Ledger(backend.pool), nodes), worker="w")


VECTOR = np.ones((1, DIM), np.float32)


def test_what_is_deleted_while_it_is_on_its_way_to_mongodb_does_not_come_back(faces: Faces) -> None:
    def delete() -> None:
        a_writer(faces).delete_documents(faces.collection, ["d"])

    a_writer(faces, before=delete).add(faces.collection, [a_node("n", "d", "text")], VECTOR)
    assert faces.texts() == {} and faces.bodies() == {}
    faces.assert_agree()


def test_what_is_deleted_after_its_writer_died_is_swept_by_whoever_goes_on(faces: Faces) -> None:
    def die() -> None:
        raise ConnectionError("killed")

    with pytest.raises(ConnectionError):
        a_writer(faces, after=die).add(faces.collection, [a_node("n", "d", "text")], VECTOR)
    assert set(faces.bodies()) == {"n"}
    with pytest.raises(ConnectionError):
        # It dies too, after its change and before it touches MongoDB.
        a_writer(faces, before=die).add(faces.collection, [a_node("n", "e", "moved")], VECTOR)
    with faces.backend.pool.transaction() as cursor:
        # As if the deletion's own outbox row had been worked off before the node was put.
        cursor.execute('DELETE FROM ragstore."data_docs"')
        cursor.execute("UPDATE ragstore.document SET deleted_at = now(), n_nodes = 0, revision = revision + 1")
    faces.until_recovered()
    assert faces.bodies() == {}
    faces.assert_agree()


def test_what_is_written_again_while_an_older_state_is_on_its_way_keeps_the_newer(faces: Faces) -> None:
    def write_again() -> None:
        a_writer(faces).add(faces.collection, [a_node("n", "d", "newer")], VECTOR)

    a_writer(faces, before=write_again).add(faces.collection, [a_node("n", "d", "older")], VECTOR)
    assert faces.texts() == {"newer": 1}
    faces.assert_agree()


def test_two_writers_of_one_new_id_under_two_documents_leave_one_node(faces: Faces, place: Place) -> None:
    def nodes(document_id: str) -> list[TextNode]:
        source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document_id)}
        return [TextNode(id_=f"n{i}", text=f"{document_id} {i}", relationships=source) for i in range(30)]

    place.run_together([("insert_nodes", nodes(f"d{i}")) for i in range(4)])
    assert faces.texts().total() == 30
    faces.assert_agree()
