"""IngestionPipeline on ragstore's stores, with each docstore strategy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import BaseNode, TextNode, TransformComponent

from tests.support.llama_faces import Faces, HashEmbedding, a_document, a_splitter, faces_on
from tests.support.servers import Servers

pytestmark = pytest.mark.on_both

UPSERTS, DUPLICATES, UPSERTS_AND_DELETE = (
    DocstoreStrategy.UPSERTS,
    DocstoreStrategy.DUPLICATES_ONLY,
    DocstoreStrategy.UPSERTS_AND_DELETE,
)
EACH_STRATEGY = pytest.mark.parametrize("strategy", [UPSERTS, DUPLICATES, UPSERTS_AND_DELETE])


class CountingEmbedding(HashEmbedding):
    n_embedded: int = 0

    def _get_text_embedding(self, text: str) -> list[float]:
        self.n_embedded += 1
        return super()._get_text_embedding(text)


def a_pipeline(
    context: StorageContext, strategy: DocstoreStrategy, transformations: Sequence[TransformComponent] | None = None
) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=list(transformations or [a_splitter(), HashEmbedding()]),
        docstore=context.docstore,
        vector_store=context.vector_store,
        docstore_strategy=strategy,
        disable_cache=True,
    )


def assert_holds(faces: Faces, *documents: Document) -> None:
    """These documents whole, and the documents themselves in the docstore, as a pipeline keeps them there."""
    faces.assert_holds(*documents)
    kept = {row[0] for row in faces.sql("SELECT node_id FROM ragstore.body")}
    assert kept == {d.id_ for d in documents}
    assert faces.context().docstore.get_nodes([d.id_ for d in documents]) == list(documents)


@EACH_STRATEGY
@pytest.mark.parametrize("is_async", [False, True])
def test_running_twice_embeds_once(faces: Faces, strategy: DocstoreStrategy, is_async: bool) -> None:
    documents = [a_document("a"), a_document("b")]
    model = CountingEmbedding()
    for _ in range(2):
        pipeline = a_pipeline(faces.context(), strategy, [a_splitter(), model])
        if is_async:
            asyncio.run(pipeline.arun(documents=documents))
        else:
            pipeline.run(documents=documents)
    assert model.n_embedded == 12
    assert_holds(faces, *documents)


@EACH_STRATEGY
def test_a_changed_document_is_replaced_and_a_new_one_added(faces: Faces, strategy: DocstoreStrategy) -> None:
    a_pipeline(faces.context(), strategy).run(documents=[a_document("a"), a_document("b")])
    changed = [a_document("a", version=2), a_document("b"), a_document("c")]
    a_pipeline(faces.context(), strategy).run(documents=changed)
    assert_holds(faces, *changed)
    back = [a_document("a"), *changed[1:]]
    a_pipeline(faces.context(), strategy).run(documents=back)
    assert_holds(faces, *back)


@pytest.mark.parametrize(
    ("strategy", "left"),
    [(UPSERTS, {"a", "b"}), (DUPLICATES, {"a", "b"}), (UPSERTS_AND_DELETE, {"a"})],
)
def test_a_removed_document_goes_only_where_the_strategy_says(
    faces: Faces, strategy: DocstoreStrategy, left: set[str]
) -> None:
    a_pipeline(faces.context(), strategy).run(documents=[a_document("a"), a_document("b")])
    a_pipeline(faces.context(), strategy).run(documents=[a_document("a")])
    assert_holds(faces, *(a_document(name) for name in sorted(left)))


@EACH_STRATEGY
def test_the_stores_may_come_from_two_contexts_and_even_two_connections(
    faces: Faces, test_servers: Servers, strategy: DocstoreStrategy
) -> None:
    with faces_on(faces.postgres_url, test_servers.mongo_url, faces.mongo.name) as other:
        for vectors in (faces.context(), other.context()):
            for version in (1, 1, 2):
                mixed = StorageContext.from_defaults(
                    docstore=faces.context().docstore, vector_store=vectors.vector_store
                )
                a_pipeline(mixed, strategy).run(documents=[a_document("a", version=version), a_document("b")])
            assert faces.texts().total() == 12
            assert_holds(faces, a_document("a", version=2), a_document("b"))


def test_of_three_equal_documents_that_were_removed_none_is_left(faces: Faces) -> None:
    equal = [Document(id_=name, text="The very same. Text each.") for name in "abc"]
    a_pipeline(faces.context(), UPSERTS_AND_DELETE).run(documents=[*equal, a_document("d")])
    assert set(faces.context().docstore.get_all_document_hashes().values()) == {"a", "b", "c", "d"}
    a_pipeline(faces.context(), UPSERTS_AND_DELETE).run(documents=[a_document("d")])
    assert_holds(faces, a_document("d"))


def test_duplicates_are_left_out_also_when_the_first_came_earlier(faces: Faces) -> None:
    def equal(name: str) -> Document:
        return Document(id_=name, text="The very same. Text each.")

    a_pipeline(faces.context(), DUPLICATES).run(documents=[equal("a"), equal("b")])
    a_pipeline(faces.context(), DUPLICATES).run(documents=[equal("c")])
    assert_holds(faces, equal("a"))


@EACH_STRATEGY
def test_a_run_that_fails_is_done_again_by_the_next(faces: Faces, strategy: DocstoreStrategy) -> None:
    class Failing(TransformComponent):
        def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
            raise ConnectionError("no model")

    a_pipeline(faces.context(), strategy).run(documents=[a_document("a")])
    documents = [a_document("a", version=2), a_document("b")]
    context = faces.context()
    with pytest.raises(ConnectionError):
        a_pipeline(context, strategy, [a_splitter(), Failing()]).run(documents=documents)
    a_pipeline(context, strategy).run(documents=documents)
    assert_holds(faces, *documents)


@EACH_STRATEGY
def test_a_run_that_failed_and_whose_source_went_back_is_done_again(faces: Faces, strategy: DocstoreStrategy) -> None:
    class Failing(TransformComponent):
        def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
            raise ConnectionError("no model")

    a_pipeline(faces.context(), strategy).run(documents=[a_document("a")])
    with pytest.raises(ConnectionError):
        a_pipeline(faces.context(), strategy, [Failing()]).run(documents=[a_document("a", version=2)])
    a_pipeline(faces.context(), strategy).run(documents=[a_document("a")])
    assert_holds(faces, a_document("a"))


@EACH_STRATEGY
def test_documents_that_a_transformation_changes_first_are_not_doubled(
    faces: Faces, strategy: DocstoreStrategy
) -> None:
    class Cleaning(TransformComponent):
        def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
            for node in nodes:
                node.set_content(node.get_content().replace("Sentence", "Clean sentence"))
            return nodes

    for version in (1, 1, 2):
        a_pipeline(faces.context(), strategy, [Cleaning(), a_splitter(), HashEmbedding()]).run(
            documents=[a_document("a", version=version)]
        )
    assert faces.texts().total() == 6 and all("version 2" in text for text in faces.texts())
    faces.assert_agree()


@EACH_STRATEGY
def test_a_document_without_text_is_kept_without_nodes(faces: Faces, strategy: DocstoreStrategy) -> None:
    empty = [Document(id_=name, text="", metadata={"name": name}) for name in "ab"]
    a_pipeline(faces.context(), strategy).run(documents=[a_document("a"), empty[1]])
    a_pipeline(faces.context(), strategy).run(documents=empty)
    assert_holds(faces, *empty)


@EACH_STRATEGY
def test_documents_need_not_be_kept_themselves(faces: Faces, strategy: DocstoreStrategy) -> None:
    for documents in ([a_document("a"), a_document("b")], [a_document("a", version=2), a_document("b")]):
        for _ in range(2):
            a_pipeline(faces.context(), strategy).run(documents=documents, store_doc_text=False)
    faces.assert_holds(a_document("a", version=2), a_document("b"))
    assert faces.sql("SELECT count(*) FROM ragstore.body") == [(0,)]


@EACH_STRATEGY
def test_nodes_without_a_source_are_upserted_by_their_own_id(faces: Faces, strategy: DocstoreStrategy) -> None:
    for text in ("first", "first", "second"):
        a_pipeline(faces.context(), strategy, [HashEmbedding()]).run(nodes=[TextNode(id_="n", text=text)])
    assert faces.texts() == {"second": 1}
    assert faces.context().docstore.get_document_hash("n") == TextNode(id_="n", text="second").hash
    a_pipeline(faces.context(), UPSERTS_AND_DELETE, [HashEmbedding()]).run(nodes=[TextNode(id_="m", text="m")])
    assert faces.texts() == {"m": 1}
    faces.assert_agree()


@EACH_STRATEGY
def test_nodes_of_one_document_in_several_runs_add_up(faces: Faces, strategy: DocstoreStrategy) -> None:
    nodes = a_splitter().get_nodes_from_documents([a_document("a")])
    for part in (nodes[:3], nodes[3:], nodes[3:]):
        a_pipeline(faces.context(), strategy, [HashEmbedding()]).run(nodes=part)
    assert faces.texts().total() == 6
    faces.assert_agree()


def test_deleting_what_is_missing_leaves_an_index_on_the_same_store_alone(faces: Faces) -> None:
    context = faces.context()
    VectorStoreIndex.from_documents(
        [a_document("kept")],
        storage_context=context,
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
        store_nodes_override=True,
    )
    a_pipeline(faces.context(), UPSERTS_AND_DELETE).run(documents=[a_document("kept"), a_document("a")])
    a_pipeline(faces.context(), UPSERTS_AND_DELETE).run(documents=[a_document("kept"), a_document("a")])
    assert faces.texts().total() == 12
    faces.assert_agree()


def test_a_pipeline_without_a_splitter_stores_whole_documents(faces: Faces) -> None:
    for version in (1, 1, 2):
        a_pipeline(faces.context(), UPSERTS, [HashEmbedding()]).run(documents=[a_document("a", version=version)])
    assert faces.texts().total() == 1
    faces.assert_agree()
    (hit,) = faces.index().as_retriever().retrieve("Sentence 1")
    assert hit.node.get_content() == a_document("a", version=2).text
