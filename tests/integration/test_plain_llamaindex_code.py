"""LlamaIndex code as anybody writes it, which knows ragstore by one line: the one that makes its StorageContext.

``RAGSTORE_TEST_KILLS=50`` kills each operation at so many random calls of a function; ``RAGSTORE_TEST_SEED`` repeats them.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceWindowNodeParser, get_leaf_nodes
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.retrievers import AutoMergingRetriever, RecursiveRetriever, VectorIndexRetriever
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.storage.docstore.mongodb import MongoDocumentStore
from llama_index.storage.index_store.mongodb import MongoIndexStore
from llama_index.vector_stores.postgres import PGVectorStore

from tests.support import children
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_hierarchy, a_splitter, faces_on
from tests.support.plain_children import counted, run, started

Environment = Mapping[str, str]


@contextmanager
def a_context() -> Iterator[StorageContext]:
    import ragstore

    with ragstore.open() as rs:
        yield rs.storage_context("docs")


# What a program does


def build(context: StorageContext, documents: Sequence[Document]) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        list(documents),
        storage_context=context,
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
        insert_batch_size=4,
    )


def load(context: StorageContext) -> VectorStoreIndex:
    index = load_index_from_storage(context, embed_model=HashEmbedding(), transformations=[a_splitter()])
    assert isinstance(index, VectorStoreIndex)
    return index


def insert(context: StorageContext, documents: Sequence[Document]) -> None:
    index = load(context)
    for document in documents:
        index.insert(document)


def refresh(context: StorageContext, documents: Sequence[Document]) -> None:
    load(context).refresh_ref_docs(list(documents))


def a_pipeline(context: StorageContext, strategy: DocstoreStrategy) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[a_splitter(), HashEmbedding()],
        docstore=context.docstore,
        vector_store=context.vector_store,
        docstore_strategy=strategy,
        disable_cache=True,
    )


def upsert_and_delete(context: StorageContext, documents: Sequence[Document]) -> None:
    a_pipeline(context, DocstoreStrategy.UPSERTS_AND_DELETE).run(documents=list(documents))


Operation = Callable[[StorageContext, Sequence[Document]], Any]
OPERATIONS: list[Operation] = [build, refresh, upsert_and_delete]
EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)


def program(operation: Operation, documents: Sequence[Document]) -> None:
    """All of a process."""
    with a_context() as context:
        operation(context, documents)


# Where it runs


@pytest.fixture
def environment(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Databases with an empty collection, for this process and its children."""
    environment = children.environment(settings)
    for name in environment.keys() - os.environ.keys():
        monkeypatch.setenv(name, environment[name])
    run(environment, make_the_collection)
    return environment


def make_the_collection() -> None:
    import ragstore

    with ragstore.open() as rs:
        rs.create_collection("docs", model="external", dim=DIM)


@pytest.fixture
def stored(environment: Environment) -> Iterator[Faces]:
    """What both databases hold, by plain SQL and pymongo."""
    env = {name.removeprefix("RAGSTORE_"): value for name, value in environment.items()}
    with faces_on(env["POSTGRES_URL"], env["MONGO_URL"], env["MONGO_DATABASE"]) as faces:
        yield faces


@pytest.fixture
def context(environment: Environment) -> Iterator[StorageContext]:
    with a_context() as context:
        yield context


def test_the_line_that_makes_the_context_is_all_that_this_module_has_of_ragstore() -> None:
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.partition(".")[0] == "ragstore"} == {"ragstore"}


# Killed


FAILPOINTS = [
    "direct_written",
    "direct_committed",
    "nodes_put",
    "ref_docs_half_put",
    "ref_docs_put",
    "nodes_half_retired",
    "nodes_retired",
    "direct_finished",
]


class Source:
    """Documents that change from one listing to the next: one changes, one stays, one goes and another comes."""

    def __init__(self, operation: Operation) -> None:
        self._deletes = operation is upsert_and_delete
        self._n = 0
        self.before: dict[str, Document] = {}
        self.live: dict[str, Document] = {}

    def next(self) -> list[Document]:
        self._n += 1
        listing = [a_document("a", self._n, 6), a_document("b", 1, 3), a_document("cd"[self._n % 2], self._n, 5)]
        self.before = self.live
        kept = {} if self._deletes else self.live
        self.live = kept | {document.id_: document for document in listing}
        return listing

    def assert_each_is_one_version(self, stored: Faces) -> None:
        """Old or new, whole; one that comes or goes may be absent."""
        for name in self.before | self.live:
            versions = [texts_of(each[name]) if name in each else Counter() for each in (self.before, self.live)]
            assert stored.texts_of(name) in versions, f"{name} is not one version"


def texts_of(document: Document) -> Counter[str]:
    return Counter(node.get_content() for node in a_splitter().get_nodes_from_documents([document]))


def run_again(stored: Faces, source: Source, operation: Operation, listing: Sequence[Document]) -> None:
    """After a kill each document is one version; run again, all are the new ones, once, in both databases."""
    source.assert_each_is_one_version(stored)
    # A store that is opened anew knows what the databases know, as a program that was started again.
    with a_context() as context:
        operation(context, listing)
        stored.until_recovered()
        stored.assert_holds(*source.live.values())
        infos = context.docstore.get_all_ref_doc_info() or {}
    assert {name: set(info.node_ids) for name, info in infos.items()} == {n: stored.nodes_of(n) for n in source.live}


@EACH_OPERATION
@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_at_any_failpoint_and_run_again_no_document_is_lost_doubled_or_stale(
    environment: Environment, stored: Faces, operation: Operation, failpoint: str
) -> None:
    source = Source(operation)
    assert run(environment, program, operation, source.next()) is not None
    for nth in range(1, 100):
        listing = source.next()
        armed = {**environment, "RAGSTORE_FAILPOINT": f"{failpoint}:{nth}"}
        survived = run(armed, program, operation, listing) is not None
        run_again(stored, source, operation, listing)
        if survived:
            break
    assert nth > 1, "nothing was killed"


@EACH_OPERATION
@pytest.mark.timeout(300 + 20 * int(os.environ.get("RAGSTORE_TEST_KILLS", "0")))
def test_killed_at_any_call_and_run_again_no_document_is_lost_doubled_or_stale(
    environment: Environment, stored: Faces, operation: Operation
) -> None:
    seed = os.environ.get("RAGSTORE_TEST_SEED") or str(random.randrange(10**9))
    n_kills = int(os.environ.get("RAGSTORE_TEST_KILLS", "3"))
    print(f"RAGSTORE_TEST_SEED={seed} RAGSTORE_TEST_KILLS={n_kills}")
    chance = random.Random(f"{seed} {operation.__name__}")
    source = Source(operation)
    assert run(environment, program, operation, source.next()) is not None
    n_calls = run(environment, counted, program, (operation, source.next()))
    assert n_calls is not None and n_calls > 1_000
    for _ in range(n_kills):
        listing = source.next()
        run(environment, counted, program, (operation, listing), chance.randrange(1, n_calls))
        run_again(stored, source, operation, listing)


# At once


def test_four_programs_insert_at_once_and_every_node_is_in_both_databases(
    environment: Environment, stored: Faces
) -> None:
    documents = [a_document(name, n_sentences=5) for name in "abcdefghijkl"]
    calls = [(program, (insert, documents[i::4])) for i in range(4)]
    with started(environment, *calls) as programs:
        for each in programs:
            each.go()
        assert None not in [each.end() for each in programs]
    stored.assert_holds(*documents)
    with a_context() as context:
        infos = load(context).ref_doc_info
        assert {name: set(info.node_ids) for name, info in infos.items()} == {
            document.id_: stored.nodes_of(document.id_) for document in documents
        }
        ids = [node_id for info in infos.values() for node_id in info.node_ids]
        found = [context.vector_store.get_nodes(ids), context.docstore.get_nodes(ids)]
    expected = sum((texts_of(document) for document in documents), Counter())
    assert [Counter(node.get_content() for node in nodes) for nodes in found] == [expected] * 2
    assert set(stored.bodies()) == set(ids) and len(ids) == len(set(ids))


# Every method


class Calls:
    """Calls methods of a store by their names, or their async twins; knows which it called."""

    def __init__(self, store: Any, *, is_async: bool) -> None:
        self._store = store
        self._is_async = is_async
        self.called: set[str] = set()

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._is_async:
            name = next(each for each in (f"a{name}", f"async_{name}") if hasattr(self._store, each))
        self.called.add(name)
        result = getattr(self._store, name)(*args, **kwargs)
        return asyncio.run(result) if self._is_async else result


def methods_of(upstream: type, *, is_async: bool, without: set[str]) -> set[str]:
    """Public methods that upstream's class or its parents below pydantic define."""
    return {
        name
        for name, member in inspect.getmembers(upstream, inspect.isfunction)
        if not name.startswith("_") and inspect.iscoroutinefunction(member) == is_async
    } - without


SYNC_AND_ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@SYNC_AND_ASYNC
def test_every_method_of_the_vector_store(context: StorageContext, stored: Faces, is_async: bool) -> None:
    call = Calls(context.vector_store, is_async=is_async)
    nodes = [
        node.model_copy(update={"embedding": HashEmbedding().get_text_embedding(node.get_content())})
        for name in "abc"
        for node in a_splitter().get_nodes_from_documents([a_document(name, animal=name)])
    ]
    assert call("add", nodes) == [node.node_id for node in nodes] == call("add", nodes)
    only_b = MetadataFilters(filters=[MetadataFilter(key="animal", value="b", operator=FilterOperator.EQ)])
    result = call("query", VectorStoreQuery(nodes[0].embedding, similarity_top_k=50))
    assert result.ids[0] == nodes[0].node_id and set(result.ids) == {node.node_id for node in nodes}
    assert {node.ref_doc_id for node in call("get_nodes", filters=only_b)} == {"b"}
    call("delete", "a")
    assert [node.node_id for node in call("get_nodes", [nodes[0].node_id, nodes[6].node_id])] == [nodes[6].node_id]
    call("delete_nodes", [nodes[6].node_id], filters=only_b)
    assert len(stored.nodes_of("b")) == 5
    stored.assert_agree()
    assert "://" not in context.vector_store.to_json()
    call("clear")
    assert stored.texts() == {} == stored.bodies()
    assert methods_of(PGVectorStore, is_async=is_async, without=_of_pydantic() | {"persist", "close"}) == call.called


@SYNC_AND_ASYNC
def test_every_method_of_the_document_store(context: StorageContext, stored: Faces, is_async: bool) -> None:
    call = Calls(context.docstore, is_async=is_async)
    document = a_document("a", author="Ann")
    nodes = a_splitter().get_nodes_from_documents([document])
    call("add_documents", [document, *nodes])
    call("set_document_hash", "a", document.hash)
    assert call("get_document", "a") == document == call("get_node", "a")
    assert call("get_nodes", [node.node_id for node in nodes]) == nodes
    assert call("get_node_dict", {1: nodes[1].node_id}) == {1: nodes[1]}
    assert call("document_exists", "a") and not call("document_exists", "x")
    assert call("ref_doc_exists", "a") and not call("ref_doc_exists", "x")
    info = call("get_ref_doc_info", "a")
    assert set(info.node_ids) == {node.node_id for node in nodes} and info.metadata["author"] == "Ann"
    assert call("get_all_ref_doc_info") == {"a": info}
    assert call("get_document_hash", "a") == document.hash
    assert call("get_all_document_hashes")[document.hash] == "a"
    call("set_document_hashes", {"b": a_document("b").hash})
    call("add_documents", [a_document("b")])
    assert call("get_document_hash", "b") == a_document("b").hash
    call("delete_document", "b")
    assert call("get_document_hash", "b") is None
    call("delete_ref_doc", "a")
    assert call("get_all_ref_doc_info") == {} and context.docstore.docs == {}
    stored.assert_agree()
    assert methods_of(MongoDocumentStore, is_async=is_async, without={"persist"}) == call.called


@SYNC_AND_ASYNC
def test_every_method_of_the_index_store(context: StorageContext, is_async: bool) -> None:
    build(context, [a_document("a")])
    call = Calls(context.index_store, is_async=is_async)
    (struct,) = call("index_structs")
    assert call("get_index_struct", struct.index_id) == call("get_index_struct") == struct
    struct.summary = "about a"
    call("add_index_struct", struct)
    assert call("get_index_struct", struct.index_id).summary == "about a"
    call("delete_index_struct", struct.index_id)
    assert call("get_index_struct", struct.index_id).summary is None
    assert methods_of(MongoIndexStore, is_async=is_async, without={"persist"}) == call.called


def _of_pydantic() -> set[str]:
    from llama_index.core.schema import BaseComponent

    return {name for name, _ in inspect.getmembers(BaseComponent)}


@SYNC_AND_ASYNC
def test_every_method_of_an_index_that_changes_documents(
    context: StorageContext, stored: Faces, is_async: bool
) -> None:
    call = Calls(build(context, [a_document("a"), a_document("b")]), is_async=is_async)
    call("insert", a_document("c"))
    call("insert_nodes", a_splitter().get_nodes_from_documents([a_document("d")]))
    call("update_ref_doc", a_document("a", 2))
    assert call("refresh_ref_docs", [a_document("a", 2), a_document("b", 2)]) == [False, True]
    call("delete_ref_doc", "c", delete_from_docstore=True)
    infos = load(context).ref_doc_info
    assert {name: len(info.node_ids) for name, info in infos.items()} == dict.fromkeys("abd", 6)
    call("delete_nodes", infos["d"].node_ids, delete_from_docstore=True)
    stored.assert_holds(a_document("a", 2), a_document("b", 2))
    index = load(context)
    index.update(a_document("b", 3))
    assert index.refresh([a_document("a", 2)]) == [False]
    index.delete("a")
    index.set_index_id("mine")
    assert load_index_from_storage(context, index_id="mine", embed_model=HashEmbedding()).index_id == "mine"
    index.summary = "all of it"
    stored.assert_holds(a_document("b", 3))


@SYNC_AND_ASYNC
@pytest.mark.parametrize("strategy", DocstoreStrategy)
def test_a_pipeline_with_each_strategy(
    context: StorageContext, stored: Faces, strategy: DocstoreStrategy, is_async: bool
) -> None:
    left = [] if strategy == DocstoreStrategy.UPSERTS_AND_DELETE else [a_document("c")]
    for listing in ("abc", "abc", "ab"):
        documents = [a_document(name) for name in listing]
        Calls(a_pipeline(context, strategy), is_async=is_async)("run", documents=documents)
    changed = [a_document("a", 2), a_document("b")]
    Calls(a_pipeline(context, strategy), is_async=is_async)("run", documents=changed)
    stored.assert_holds(*changed, *left)


# Retrievers that need the document store


def found(retriever: Any, question: str, *, is_async: bool) -> list[NodeWithScore]:
    hits: list[NodeWithScore] = Calls(retriever, is_async=is_async)("retrieve", question)
    return hits


@SYNC_AND_ASYNC
def test_parents_replace_their_leaves(context: StorageContext, is_async: bool) -> None:
    document = Document(id_="d", text=" ".join(f"word{i}" for i in range(128)))
    nodes = a_hierarchy().get_nodes_from_documents([document])
    context.docstore.add_documents(nodes)
    VectorStoreIndex(get_leaf_nodes(nodes), storage_context=context, embed_model=HashEmbedding())
    leaves = load(context).as_retriever(similarity_top_k=4)
    assert isinstance(leaves, VectorIndexRetriever)
    retriever = AutoMergingRetriever(leaves, context)
    (hit,) = found(retriever, "word1 word40 word70 word100", is_async=is_async)
    assert hit.node.get_content() == document.text


@SYNC_AND_ASYNC
def test_an_index_node_leads_to_what_it_stands_for(context: StorageContext, is_async: bool) -> None:
    context.docstore.add_documents([TextNode(id_="table", text="the whole table")])
    nodes: list[BaseNode] = [IndexNode(id_="pointer", text="summary of a table", index_id="table")]
    VectorStoreIndex(nodes, storage_context=context, embed_model=HashEmbedding())
    retriever = RecursiveRetriever(
        "vector",
        retriever_dict={"vector": load(context).as_retriever()},
        node_dict={"table": context.docstore.get_node("table")},
    )
    (hit,) = found(retriever, "summary", is_async=is_async)
    assert hit.node.get_content() == "the whole table"


@SYNC_AND_ASYNC
def test_a_sentence_brings_its_window(context: StorageContext, is_async: bool) -> None:
    parser = SentenceWindowNodeParser.from_defaults(
        sentence_splitter=lambda text: [f"{s.strip()}. " for s in text.split(".") if s.strip()], window_size=1
    )
    VectorStoreIndex.from_documents(
        [a_document("a")], storage_context=context, embed_model=HashEmbedding(), transformations=[parser]
    )
    retriever = load(context).as_retriever(similarity_top_k=1)
    hits = found(retriever, "Sentence 3 of a in version 1 is here.", is_async=is_async)
    (shown,) = MetadataReplacementPostProcessor(target_metadata_key="window").postprocess_nodes(hits)
    assert "Sentence 2" in shown.get_content() and "Sentence 4" in shown.get_content()


@SYNC_AND_ASYNC
def test_a_query_engine_answers_from_the_nodes_it_found(context: StorageContext, is_async: bool) -> None:
    from llama_index.core.llms import MockLLM

    engine = build(context, [a_document("a")]).as_query_engine(llm=MockLLM(), similarity_top_k=2)
    response = Calls(engine, is_async=is_async)("query", "Sentence 3 of a")
    assert [hit.node.ref_doc_id for hit in response.source_nodes] == ["a", "a"]
