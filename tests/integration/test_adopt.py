from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import load_index_from_storage
from llama_index.core.schema import TextNode
from llama_index.vector_stores.postgres import PGVectorStore
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.app.transfer import PlainStack
from ragstore.errors import EmbeddingSpaceError, UsageError
from ragstore.settings import Settings
from tests.support import plain_stack
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_splitter, faces_on
from tests.support.parts import execute, postgres_url
from tests.support.persisted import answers, assert_equal_answers
from tests.support.plain_stack import Plain, embedded, nodes_of

DOCUMENTS = plain_stack.documents("abc")
QUESTIONS = [f"sentence {i} of {name}" for i in range(3) for name in "abc"]


@pytest.fixture
def faces(settings: Settings, store: Ragstore) -> Iterator[Faces]:
    store.create_collection("docs", model="external", dim=DIM)
    assert settings.mongo_url is not None
    with faces_on(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database) as opened:
        yield opened


@pytest.fixture
def plain(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Iterator[Plain]:
    """LlamaIndex's own stores in the same databases, as people run them."""
    assert settings.mongo_url is not None
    stack = Plain(postgres_url(settings), settings.mongo_url.get_secret_value(), mongo_database.name)
    yield stack
    stack.close()


def of(plain: Plain, **options: str) -> PlainStack:
    return PlainStack("data_plain", mongo_database=plain.mongo_name, **options)


def test_what_a_plain_stack_holds_is_answered_equally_and_refreshed_without_embedding(
    store: Ragstore, faces: Faces, plain: Plain
) -> None:
    index = plain_stack.build(plain.context(), DOCUMENTS)
    report = store.adopt(of(plain), collection="docs")
    assert (report.documents, report.nodes, report.embedded) == (3, 9, 0)
    assert (report.left_behind.counts, report.noted.counts) == ({}, {})
    ours = load_index_from_storage(
        store.storage_context("docs"), embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    assert_equal_answers(answers(ours, QUESTIONS, 5), answers(index, QUESTIONS, 5))  # type: ignore[arg-type]
    faces.assert_holds(*DOCUMENTS)
    assert ours.refresh_ref_docs(DOCUMENTS) == [False] * 3
    again = store.adopt(of(plain), collection="docs")
    assert (again.documents, again.nodes, again.skipped) == (0, 0, 9)
    assert plain.node_ids().total() == 9


def test_nodes_that_only_the_document_store_has_come_over_without_a_vector(
    store: Ragstore, faces: Faces, plain: Plain
) -> None:
    plain_stack.upsert(plain.context(), DOCUMENTS)
    report = store.adopt(of(plain), collection="docs")
    assert (report.documents, report.nodes) == (3, 12)
    docstore = store.storage_context("docs").docstore
    assert docstore.get_nodes([d.id_ for d in DOCUMENTS]) == DOCUMENTS
    before = faces.state()
    plain_stack.upsert(store.storage_context("docs"), DOCUMENTS)
    assert faces.state() == before
    faces.assert_agree()


def test_a_node_that_stands_in_several_rows_is_taken_once(store: Ragstore, faces: Faces, plain: Plain) -> None:
    vector_store = plain.context().vector_store
    nodes = embedded(nodes_of("a", 4))
    for _ in range(3):
        vector_store.add(nodes)
    newer = nodes[0].model_copy(update={"text": "The newest text."})
    vector_store.add([newer])
    report = store.adopt(PlainStack("data_plain"), collection="docs")
    assert (report.nodes, report.noted.counts) == (4, {"doubled_nodes": 9})
    assert report.noted.examples["doubled_nodes"] == [
        f"{node.node_id}: {4 if node is nodes[0] else 3} rows" for node in sorted(nodes, key=lambda n: n.node_id)
    ]
    assert sorted(faces.texts()) == sorted(["The newest text.", *(node.get_content() for node in nodes[1:])])
    faces.assert_agree()


@pytest.mark.parametrize("options", [{"use_halfvec": True}, {"use_jsonb": True}, {"hybrid_search": True}])
def test_tables_of_other_settings_come_over(
    settings: Settings, store: Ragstore, faces: Faces, options: dict[str, Any]
) -> None:
    url = postgres_url(settings)
    vector_store = PGVectorStore.from_params(
        connection_string=url,
        async_connection_string=url.replace("postgresql://", "postgresql+asyncpg://"),
        table_name="Manuals",
        schema_name="other",
        embed_dim=DIM,
        **options,
    )
    vector_store.add(embedded(nodes_of("a", 4)))
    assert vector_store._engine is not None
    vector_store._engine.dispose()
    stack = PlainStack(
        "data_manuals", schema="other", postgres_url=url.replace("postgresql://", "postgresql+psycopg2://")
    )
    assert "postgresql" not in repr(stack)
    report = store.adopt(stack, collection="docs")
    assert (report.nodes, report.ok) == (4, True)
    faces.assert_agree()


def test_rows_that_hold_no_node_are_listed_and_the_others_come_over(
    settings: Settings, store: Ragstore, faces: Faces, plain: Plain
) -> None:
    nodes = embedded(nodes_of("a", 4))
    plain.context().vector_store.add(nodes)
    execute(settings, "UPDATE data_plain SET embedding = array_fill(0, ARRAY[32])::vector WHERE id = 1")
    execute(settings, "UPDATE data_plain SET node_id = NULL WHERE id = 2")
    execute(settings, 'UPDATE data_plain SET metadata_ = \'{"kind": "old", "ref_doc_id": "a"}\' WHERE id = 3')
    report = store.adopt(PlainStack("data_plain"), collection="docs")
    assert report.left_behind.counts == {"invalid_nodes": 1, "unusable_vectors": 1}
    assert report.nodes == 3
    (node,) = store.storage_context("docs").docstore.get_nodes([nodes[2].node_id])
    assert isinstance(node, TextNode)
    assert (node.text, node.metadata, node.ref_doc_id) == (nodes[2].get_content(), {"kind": "old"}, "a")
    faces.assert_agree()


def test_a_table_of_vectors_of_another_length_is_refused(store: Ragstore, plain: Plain) -> None:
    plain.context().vector_store.add(embedded(nodes_of("a", 2)))
    store.create_collection("docs", model="external", dim=8)
    with pytest.raises(EmbeddingSpaceError, match="8 dimensions"):
        store.adopt(PlainStack("data_plain"), collection="docs")


def test_what_is_no_plain_store_is_refused(settings: Settings, store: Ragstore, plain: Plain) -> None:
    with pytest.raises(UsageError, match=r"public.data_nothing .* does not exist"):
        store.adopt(PlainStack("data_nothing"), collection="docs")
    execute(settings, "CREATE TABLE public.data_other (id int)")
    with pytest.raises(UsageError, match="other columns"):
        store.adopt(PlainStack("data_other"), collection="docs")
    plain.context().vector_store.add(embedded(nodes_of("a", 2)))
    with pytest.raises(UsageError, match="no document store 'docstore'"):
        store.adopt(of(plain), collection="docs")


@pytest.mark.parametrize("name", ["$bad/../x", "a.b", "a b", "x" * 64, ""])
def test_a_database_that_cannot_be_is_refused_by_name(store: Ragstore, plain: Plain, name: str) -> None:
    plain.context().vector_store.add(embedded(nodes_of("a", 2)))
    with pytest.raises(UsageError) as refused:
        store.adopt(PlainStack("data_plain", mongo_database=name), collection="docs")
    assert repr(name) in refused.value.message
    assert refused.value.hint


def test_the_plain_stores_stay_as_they_are(
    settings: Settings, store: Ragstore, plain: Plain, mongo_database: Database[dict[str, Any]]
) -> None:
    plain_stack.upsert(plain.context(), DOCUMENTS)
    plain.close()

    def state() -> Any:
        rows = execute(settings, "SELECT xmin::text, * FROM data_plain ORDER BY id")
        return rows, [list(mongo_database[f"docstore/{part}"].find().sort("_id")) for part in ("data", "metadata")]

    before = state()
    store.adopt(of(plain), collection="docs")
    assert state() == before
