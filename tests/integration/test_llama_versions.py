"""One version of a document at every moment, by plain SQL: through chains of kills and beside other writers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode, TransformComponent
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from tests.crash.cells import some_cells
from tests.support.llama_children import OPERATIONS, Place, again_and_again
from tests.support.llama_faces import Faces, HashEmbedding, a_document, a_splitter

NAME = "x"
N_SENTENCES = 4
FAILPOINTS = ["direct_written", "direct_committed", "nodes_put", "ref_docs_half_put", "direct_finished"]
WRITES = [
    "insert",
    "ainsert",
    "insert_in_batches",
    "insert_with_bodies",
    "refresh",
    "refresh_plain",
    "arefresh",
    "update",
    "upserts",
    "aupserts",
    "upserts_and_delete",
    "duplicates_only",
    "from_documents",
]
CHAINS = [(1, 1, 1, 2), (1, 2, 1, 3), (1, 1, 2, 2, 3)]
CELLS = [
    (operation, f"{failpoint}:{nth}", chain)
    for operation in WRITES
    for failpoint in FAILPOINTS
    for nth in (1, 2)
    for chain in CHAINS
]
ALWAYS = [cell for cell in CELLS if cell[1:] == ("direct_committed:1", (1, 1, 1, 2))]
STATE = """
SELECT d.doc_hash, ARRAY(SELECT t.text FROM ragstore."data_docs" t WHERE t.document_id = d.document_id),
    (SELECT b.content->'text_resource'->>'text' FROM ragstore.body b WHERE b.node_id = d.document_id)
FROM ragstore.document d WHERE d.document_id = %s
"""


class Poll:
    """Looks at the document by SQL alone, again and again, and notes all that is no whole version."""

    def __init__(self, faces: Faces, versions: range) -> None:
        documents = {version: a_document(NAME, version, N_SENTENCES) for version in versions}
        self._texts = {
            v: Counter(n.get_content() for n in a_splitter().get_nodes_from_documents([d]))
            for v, d in documents.items()
        }
        self._hashes = {document.hash: version for version, document in documents.items()}
        self._bodies = {document.text: version for version, document in documents.items()}
        self._connection = psycopg2.connect(faces.postgres_url)
        self._connection.autocommit = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self.seen: Counter[int | None] = Counter()
        self.wrong: list[str] = []

    def look(self) -> int | None:
        """The version that is there now, None for none."""
        with self._connection.cursor() as cursor:
            cursor.execute(STATE, [NAME])
            row = cursor.fetchone()
        doc_hash, texts, body = row if row is not None else (None, [], None)
        if not texts:
            version = None
            if doc_hash is not None:
                self.wrong.append("a hash without nodes")
        else:
            found = [v for v, whole in self._texts.items() if whole == Counter(texts)]
            version = found[0] if found else None
            if version is None:
                self.wrong.append(f"{len(texts)} nodes: {sorted(texts)}")
            elif doc_hash is not None and self._hashes.get(doc_hash) != version:
                self.wrong.append(f"nodes of version {version} with the hash of another")
            elif body is not None and self._bodies.get(body) != version:
                self.wrong.append(f"nodes of version {version} with the document of another")
        self.seen[version] += 1
        return version

    def _poll(self) -> None:
        while not self._stop.is_set():
            self.look()

    @contextmanager
    def running(self) -> Iterator[Poll]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()
            self._connection.close()


@pytest.mark.parametrize(
    ("operation", "failpoint", "chain"), ALWAYS + some_cells([cell for cell in CELLS if cell not in ALWAYS], 25)
)
def test_through_a_chain_of_kills_each_look_sees_one_version(
    faces: Faces, place: Place, operation: str, failpoint: str, chain: tuple[int, ...]
) -> None:
    faces.context()
    has_begun = False
    poll = Poll(faces, range(1, 5))
    with poll.running():
        for version in chain:
            place.run(operation, [a_document(NAME, version, N_SENTENCES)], failpoint=failpoint)
            now = Poll(faces, range(1, 5)).look()
            assert now is not None or not has_begun, "the document is lost"
            has_begun = now is not None
        assert poll.wrong == []
    last = a_document(NAME, 4, N_SENTENCES)
    OPERATIONS[operation](faces, [last])
    faces.until_recovered()
    faces.assert_holds(last)


@pytest.mark.parametrize("writers", [("upserts", "refresh"), ("insert", "upserts"), ("insert_in_batches", "update")])
def test_beside_two_writers_and_one_who_deletes_each_look_sees_one_version(
    faces: Faces, place: Place, writers: tuple[str, str]
) -> None:
    poll = Poll(faces, range(1, 200))
    with poll.running():
        place.run_together(
            [
                ("again_and_again", writers[0], NAME, range(1, 60, 2)),
                ("again_and_again", writers[1], NAME, range(2, 60, 2)),
                ("again_and_again", "delete", NAME, range(15)),
            ]
        )
    assert poll.wrong == []
    assert len(poll.seen) > 10, f"too few versions were seen: {poll.seen}"
    OPERATIONS[writers[1]](faces, [a_document(NAME, 100, N_SENTENCES)])
    faces.until_recovered()
    faces.assert_holds(a_document(NAME, 100, N_SENTENCES))


@pytest.mark.parametrize("writers", [("upserts", "refresh"), ("insert", "insert_in_batches"), ("update", "aupserts")])
def test_threads_of_one_process_are_in_each_others_way_as_little(faces: Faces, writers: tuple[str, str]) -> None:
    kept = faces.context()
    calls = [(writers[0], range(1, 40, 2)), (writers[1], range(2, 40, 2)), ("delete", range(10))]
    poll = Poll(faces, range(1, 200))
    with poll.running(), ThreadPoolExecutor(len(calls)) as pool:
        done = [pool.submit(again_and_again, faces, operation, NAME, versions) for operation, versions in calls]
        for each in done:
            each.result()
    assert poll.wrong == []
    OPERATIONS[writers[1]](faces, [a_document(NAME, 100, N_SENTENCES)])
    faces.until_recovered()
    faces.assert_holds(a_document(NAME, 100, N_SENTENCES))
    del kept


def a_pipeline(context: StorageContext) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[a_splitter(), HashEmbedding()],
        docstore=context.docstore,
        vector_store=context.vector_store,
        docstore_strategy=DocstoreStrategy.UPSERTS,
        disable_cache=True,
    )


def test_a_run_that_fails_before_its_documents_leaves_nothing(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    context = faces.context()
    OPERATIONS["upserts"](faces, [a_document(NAME, 1, N_SENTENCES)])

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no document store")

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(context.docstore, "set_document_hashes", refuse)
        a_pipeline(context).run(documents=[a_document(NAME, 2, N_SENTENCES)])
    faces.assert_holds(a_document(NAME, 1, N_SENTENCES))
    a_pipeline(context).run(documents=[a_document(NAME, 3, N_SENTENCES)])
    faces.assert_holds(a_document(NAME, 3, N_SENTENCES))


def test_a_run_publishes_nodes_hash_and_document_in_one_transaction(faces: Faces) -> None:
    OPERATIONS["upserts"](faces, [a_document(NAME, 1, N_SENTENCES)])
    rows = faces.sql(
        'SELECT DISTINCT t.xmin::text, b.xmin::text, d.xmin::text FROM ragstore."data_docs" t '
        "JOIN ragstore.document d USING (document_id) JOIN ragstore.body b ON b.node_id = d.document_id"
    )
    assert len(rows) == 1 and len(set(rows[0])) == 1, rows


def test_an_insert_without_a_document_store_of_ours_loses_no_node(faces: Faces) -> None:
    """Nobody says where it ends, so nothing is held back, also where its last nodes were dropped on the way."""
    store = faces.context().vector_store
    index = VectorStoreIndex.from_vector_store(
        store, embed_model=HashEmbedding(), transformations=[a_splitter(), First(n=3)]
    )
    index._insert_batch_size = 2
    for version in (1, 2):
        index.insert(a_document(NAME, version, N_SENTENCES))
        texts = [f"Sentence {i} of x in version {version} is here." for i in range(3)]
        assert sorted(faces.texts_of(NAME)) == texts


class First(TransformComponent):
    n: int

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        return nodes[: self.n]


# A hash never outlives the nodes that it vouches for.


@pytest.mark.parametrize("delete", ["vector_store", "docstore", "filters"])
def test_a_pipeline_adds_a_document_again_that_lost_all_its_nodes(faces: Faces, delete: str) -> None:
    context, document = faces.context(), a_document(NAME, 1, N_SENTENCES)
    nodes = a_pipeline(context).run(documents=[document])
    if delete == "vector_store":
        context.vector_store.delete_nodes([node.node_id for node in nodes])
    elif delete == "docstore":
        for node in nodes:
            context.docstore.delete_document(node.node_id)
    else:
        names = MetadataFilters(filters=[MetadataFilter(key="ref_doc_id", value=NAME)])
        context.vector_store.delete_nodes(filters=names)
    assert context.docstore.get_document_hash(NAME) is None
    assert context.docstore.get_document(NAME, raise_error=False) is None
    assert context.docstore.get_all_document_hashes() == {}
    faces.assert_agree()
    assert len(a_pipeline(context).run(documents=[document])) == N_SENTENCES
    faces.assert_holds(document)


def test_a_document_goes_with_its_last_part_and_stays_where_it_never_had_one(faces: Faces) -> None:
    docstore = faces.context().docstore
    whole, single = Document(text="all of it", id_="d1"), Document(text="one", id_="d2")
    parts = [TextNode(id_=f"p{i}", text=f"part {i}") for i in range(2)]
    for part in parts:
        part.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="d1", hash=whole.hash)
    docstore.add_documents([whole, single, *parts])
    docstore.delete_document("p0")
    assert docstore.document_exists("d1")
    docstore.delete_document("p1")
    assert not docstore.document_exists("d1") and docstore.get_document_hash("d1") is None
    assert docstore.get_document_hash("d2") == single.hash and list(docstore.docs) == ["d2"]
    faces.assert_agree()


def test_a_document_that_lost_its_last_vector_keeps_its_other_nodes_and_no_hash(faces: Faces) -> None:
    context, document = faces.context(), a_document(NAME, 1, N_SENTENCES)
    faces.index().insert(document)
    parent = TextNode(id_="parent", text="all of it")
    parent.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=NAME, hash=document.hash)
    context.docstore.add_documents([parent])
    assert context.docstore.get_document_hash(NAME) == document.hash
    context.vector_store.delete_nodes(sorted(faces.nodes_of(NAME)))
    assert context.docstore.get_document_hash(NAME) is None and context.docstore.document_exists("parent")
    assert faces.index().refresh_ref_docs([document]) == [True]
    assert len(faces.texts_of(NAME)) == N_SENTENCES
    faces.assert_agree()


def test_a_node_without_a_source_takes_its_hash_with_it(faces: Faces) -> None:
    context = faces.context()
    node = TextNode(id_="n", text="alone", embedding=HashEmbedding().get_text_embedding("alone"))
    context.vector_store.add([node])
    context.docstore.add_documents([node])
    context.docstore.set_document_hash("n", node.hash)
    context.vector_store.delete_nodes(["n"])
    assert context.docstore.get_document_hash("n") is None and faces.hashes() == {}
    faces.assert_agree()
