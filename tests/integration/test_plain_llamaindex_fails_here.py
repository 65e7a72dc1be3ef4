"""What goes wrong with LlamaIndex's own PostgreSQL and MongoDB stores, and goes right with ragstore's: a list.

Numbers such as run-llama/llama_index#22639 are reports of the defect upstream.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from pymongo.database import Database
from pymongo.errors import DocumentTooLarge, OperationFailure

from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support.corpus import a_text, write_documents
from tests.support.llama_faces import HashEmbedding, a_document
from tests.support.model_server import ModelServer, running_model_server
from tests.support.parts import postgres_url
from tests.support.plain_stack import (
    CountingEmbedding,
    N,
    Ours,
    Plain,
    Stack,
    add_new,
    build,
    counted,
    documents,
    doubled,
    embedded,
    load,
    nodes_of,
    refresh,
    texts,
    upsert,
    upsert_and_delete,
)


@pytest.fixture
def plain(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Iterator[Plain]:
    assert settings.mongo_url is not None
    name = f"{mongo_database.name}_plain"
    stack = Plain(postgres_url(settings), settings.mongo_url.get_secret_value(), name)
    yield stack
    stack.close()
    mongo_database.client.drop_database(name)


@pytest.fixture
def ours(settings: Settings) -> Iterator[Ours]:
    assert settings.mongo_url is not None
    stack = Ours(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database)
    stack.store()
    stack.close()
    yield stack
    stack.close()


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """Embeds for ragstore, and remembers what."""
    with running_model_server() as server:
        yield server


@pytest.fixture
def files(store: Ragstore, model: ModelServer) -> Ragstore:
    """ragstore with a collection for files, cut into some thirty tokens each."""
    store.create_collection("docs", model=f"tei:{model.url}", chunk_size=40, chunk_overlap=0)
    model.requests.clear()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "docs"


def read(folder: Path) -> list[Document]:
    """As a program on plain LlamaIndex reads files."""
    return SimpleDirectoryReader(str(folder), filename_as_id=True).load_data()


def n_embedded(model: ModelServer) -> int:
    """Texts that ragstore had embedded since this was last asked."""
    n = sum(len(request.texts) for request in model.requests)
    model.requests.clear()
    return n


def n_embedded_by_upsert(plain: Plain, folder: Path) -> int:
    counting = CountingEmbedding()
    upsert(plain.context(), read(folder), counting)
    return counting.n_embedded


# What is in the two databases after an index was built


def test_the_document_store_stays_empty_and_the_index_cannot_name_its_documents_in_plain_and_can_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#12201, #13860
    for stack in (plain, ours):
        build(stack.context(), documents("ab"))
        assert stack.texts() == texts(documents("ab"))
    assert plain.body_ids() == set()
    assert ours.body_ids() == set(ours.node_ids())

    with pytest.raises(NotImplementedError):
        _ = load(plain.context()).ref_doc_info
    assert {i: len(info.node_ids) for i, info in load(ours.context()).ref_doc_info.items()} == {"a": N, "b": N}


def test_the_index_entry_in_mongodb_grows_by_80_bytes_with_each_node_in_plain_and_stays_small_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#17768
    sizes: dict[Stack, list[int]] = {plain: [], ours: []}
    for stack, of_stack in sizes.items():
        build(stack.context(), [], store_nodes_override=True)
        for nodes in (nodes_of("a", 10), nodes_of("b", 40)):
            load(stack.context(), store_nodes_override=True).insert_nodes(nodes)
            (entry,) = stack.entries("index_store/data")
            of_stack.append(len(str(entry)))
        assert len(stack.body_ids()) == 50
    assert sizes[plain][1] - sizes[plain][0] >= 40 * 80
    assert sizes[ours][1] == sizes[ours][0] < 1_000


def test_an_index_of_210_000_nodes_takes_no_more_nodes_in_plain_and_does_in_ragstore(plain: Plain, ours: Ours) -> None:
    def one_more(stack: Stack) -> None:
        index = load(stack.context(), store_nodes_override=True)
        ids = (f"{i:036}" for i in range(210_000))
        index.index_struct.nodes_dict.update({node_id: node_id for node_id in ids})
        index.insert_nodes(nodes_of("b", 1))

    for stack in (plain, ours):
        build(stack.context(), documents("a"), store_nodes_override=True)
    with pytest.raises((DocumentTooLarge, OperationFailure)):
        one_more(plain)
    # The node is in both databases all the same, and the index does not know it.
    assert plain.texts().total() == N + 1
    assert set(load(plain.context(), store_nodes_override=True).ref_doc_info) == {"a"}

    one_more(ours)
    assert set(load(ours.context()).ref_doc_info) == {"a", "b"}


# Round trips


def test_inserting_nodes_takes_four_mongodb_round_trips_each_in_plain_and_a_few_in_all_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#10437
    for way in (plain, ours):
        build(way.context(), [], store_nodes_override=True)
        with counted(way) as (stack, trips):
            index = load(stack.context(), store_nodes_override=True)
            trips.reset()
            index.insert_nodes(nodes_of("a", 50))
            assert len(way.body_ids()) == 50
            assert trips.mongo >= 4 * 50 if way is plain else trips.mongo <= 20

    # ragstore needs no store_nodes_override to have the nodes in MongoDB.
    with counted(ours) as (stack, trips):
        index = load(stack.context())
        trips.reset()
        index.insert_nodes(nodes_of("b", 50))
        assert len(ours.body_ids()) == 100
        assert 2 <= trips.all <= 60


def test_deleting_a_document_takes_five_mongodb_round_trips_for_each_node_in_plain_and_a_few_in_all_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    for way in (plain, ours):
        build(way.context(), [a_document("a", n_sentences=50)], store_nodes_override=True)
        with counted(way) as (stack, trips):
            index = load(stack.context(), store_nodes_override=True)
            trips.reset()
            index.delete_ref_doc("a", delete_from_docstore=True)
            assert way.body_ids() == set() and not way.texts()
            assert trips.mongo >= 5 * 50 if way is plain else 2 <= trips.all <= 60


def test_an_unchanged_re_run_asks_mongodb_for_each_document_in_a_plain_pipeline_and_a_few_times_in_ragstore(
    plain: Plain, ours: Ours, folder: Path
) -> None:
    write_documents(folder, {f"{i:02}.txt": f"This is text {i}." for i in range(60)})
    upsert(plain.context(), read(folder))
    with counted(plain) as (stack, trips):
        upsert(stack.context(), read(folder))
        assert plain.texts().total() == 60
        assert trips.mongo >= 60

    with counted(ours) as (stack, trips):
        store = stack.store()
        store.create_collection("files", model="wordllama")
        assert store.ingest(folder, collection="files").added == 60
        trips.reset()
        assert store.ingest(folder, collection="files").unchanged == 60
        assert 1 <= trips.all <= 30


# The same once more


def test_adding_the_same_nodes_three_times_triples_them_in_plain_and_not_in_ragstore(plain: Plain, ours: Ours) -> None:
    # run-llama/llama_index#8832
    nodes = embedded(nodes_of("a", 6))
    question = VectorStoreQuery(query_embedding=nodes[0].embedding, similarity_top_k=6)
    found: dict[Stack, set[str]] = {}
    for stack in (plain, ours):
        for _ in range(3):
            stack.context().vector_store.add(nodes)
        found[stack] = set(stack.context().vector_store.query(question).ids or [])
    assert set(plain.node_ids().values()) == {3} and len(found[plain]) == 2
    assert set(ours.node_ids().values()) == {1} and len(found[ours]) == 6


def test_building_an_index_again_doubles_it_and_it_no_longer_loads_in_plain_and_changes_nothing_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#9338
    for stack in (plain, ours):
        for _ in range(2):
            build(stack.context(), documents("abc"))
    assert plain.texts() == doubled(texts(documents("abc")))
    with pytest.raises(ValueError, match="Expected to load a single index, but got 2"):
        load(plain.context())

    assert ours.texts() == texts(documents("abc"))
    load(ours.context())


# Several programs at once


def test_of_two_writers_one_is_forgotten_by_the_index_in_plain_and_none_in_ragstore(plain: Plain, ours: Ours) -> None:
    for stack in (plain, ours):
        build(stack.context(), [], store_nodes_override=True)
        first, second = (load(stack.context(), store_nodes_override=True) for _ in range(2))
        first.insert(documents("a")[0])
        second.insert(documents("b")[0])
        assert stack.texts() == texts(documents("ab"))
    assert set(load(plain.context(), store_nodes_override=True).ref_doc_info) == {"b"}
    assert set(load(ours.context(), store_nodes_override=True).ref_doc_info) == {"a", "b"}


def test_loading_an_index_writes_it_to_mongodb_in_plain_and_only_reads_in_ragstore(plain: Plain, ours: Ours) -> None:
    for way in (plain, ours):
        build(way.context(), documents("a"))
        with counted(way) as (stack, trips):
            context = stack.context()
            trips.reset()
            load(context)
            assert trips.mongo >= 1
            assert trips.mongo_writes == (1 if way is plain else 0)


# Killed by SIGKILL


def test_killed_while_it_embeds_the_documents_are_never_done_again_in_plain_and_are_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    for stack in (plain, ours):
        build(stack.context(), documents("a"))
        stack.killed_while_embedding(build, documents("bc"))
    assert refresh(plain.context(), documents("bc")) == [False, False]
    assert plain.texts() == texts(documents("a"))

    assert refresh(ours.context(), documents("bc")) == [True, True]
    assert ours.texts() == texts(documents("abc"))


def test_killed_while_it_embeds_a_pipeline_for_new_documents_skips_them_ever_after_in_plain_and_not_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#22638
    for stack in (plain, ours):
        add_new(stack.context(), documents("a"))
        stack.killed_while_embedding(add_new, documents("abc"))
        for _ in range(2):
            add_new(stack.context(), documents("abc"))
    assert plain.texts() == texts(documents("a"))
    assert ours.texts() == texts(documents("abc"))


def test_killed_during_an_update_the_document_is_gone_in_plain_and_its_old_version_answers_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    for stack in (plain, ours):
        build(stack.context(), documents("ab"))
        stack.killed_while_embedding(refresh, [*documents("a", version=2), *documents("b")])
    assert plain.texts() == texts(documents("b"))
    assert ours.texts() == texts(documents("ab"))


def test_killed_during_an_update_that_is_taken_back_the_document_is_lost_in_plain_and_back_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#22639
    for stack in (plain, ours):
        upsert(stack.context(), documents("ab"))
        stack.killed_while_embedding(upsert, [*documents("a", version=2), *documents("b")])
        for _ in range(2):
            upsert(stack.context(), documents("ab"))
    assert plain.texts() == texts(documents("b"))
    assert ours.texts() == texts(documents("ab"))


def test_killed_between_the_two_databases_the_next_run_doubles_everything_in_plain_and_completes_it_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    assert plain.killed_writing_to_mongo(upsert, documents("ab"))
    assert plain.texts() == texts(documents("ab"))
    for _ in range(2):
        upsert(plain.context(), documents("ab"))
        assert plain.texts() == doubled(texts(documents("ab")))

    written: list[Document] = []
    was_killed, nth = True, 0
    while was_killed:
        nth += 1
        written += (new := [a_document(f"{name}{nth}", n_sentences=N) for name in "ab"])
        was_killed = ours.killed_writing_to_mongo(upsert, new, nth)
        upsert(ours.context(), new)
        assert ours.texts() == texts(written)
    assert nth > 2


# What a run takes for deleted


def test_a_listing_that_is_empty_or_comes_in_parts_deletes_the_rest_in_plain_and_nothing_in_ragstore(
    plain: Plain, files: Ragstore, folder: Path
) -> None:
    for part in ("abcde", "fghij"):
        upsert_and_delete(plain.context(), documents(part))
    assert plain.texts() == texts(documents("fghij"))
    upsert_and_delete(plain.context(), [])
    assert plain.texts() == Counter()

    for part in ("abcde", "fghij"):
        write_documents(folder / part, {f"{name}.txt": a_text(name, 1) for name in part})
        files.ingest(folder / part, collection="docs")
    for path in folder.glob("*/*.txt"):
        path.unlink()
    files.ingest(folder, collection="docs")
    assert {Path(d.document_id).stem for d in files.documents("docs")} == set("abcdefghij")


def test_of_three_equal_documents_that_are_gone_two_stay_in_plain_and_none_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#22706, #23002
    equal = [Document(id_=name, text="The very same.") for name in "abc"]
    for stack in (plain, ours):
        upsert_and_delete(stack.context(), [*equal, *documents("d")])
        upsert_and_delete(stack.context(), documents("d"))
    assert plain.texts() == texts(equal[:2], documents("d"))
    assert ours.texts() == texts(documents("d"))


# What is embedded again


def test_a_renamed_file_is_embedded_again_and_doubled_in_plain_and_moved_in_ragstore(
    plain: Plain, files: Ragstore, model: ModelServer, folder: Path
) -> None:
    write_documents(folder, {"a.txt": a_text("a", 40)})
    assert n_embedded_by_upsert(plain, folder) == 40
    n_chunks = files.ingest(folder, collection="docs").chunks
    assert n_embedded(model) == n_chunks > 10

    (folder / "a.txt").rename(folder / "b.txt")
    assert n_embedded_by_upsert(plain, folder) == 40
    assert set(plain.texts().values()) == {2}
    files.ingest(folder, collection="docs")
    assert n_embedded(model) == 0
    assert [d.document_id for d in files.documents("docs")] == [str(folder / "b.txt")]


def test_a_touched_file_is_embedded_again_in_plain_and_not_in_ragstore(
    plain: Plain, files: Ragstore, model: ModelServer, folder: Path
) -> None:
    write_documents(folder, {"a.txt": a_text("a", 40)})
    assert n_embedded_by_upsert(plain, folder) == 40
    files.ingest(folder, collection="docs")
    assert n_embedded(model) > 10

    os.utime(folder / "a.txt", (1, 1))
    assert n_embedded_by_upsert(plain, folder) == 40
    files.ingest(folder, collection="docs")
    assert n_embedded(model) == 0


def test_one_more_sentence_embeds_the_whole_document_again_in_plain_and_at_most_two_chunks_in_ragstore(
    plain: Plain, files: Ragstore, model: ModelServer, folder: Path
) -> None:
    write_documents(folder, {"a.txt": a_text("a", 40)})
    assert n_embedded_by_upsert(plain, folder) == 40
    files.ingest(folder, collection="docs")
    assert n_embedded(model) > 10

    write_documents(folder, {"a.txt": a_text("a", 40) + "\nVamoso litepa rudo gifa bekudi.\n"})
    assert n_embedded_by_upsert(plain, folder) == 41
    files.ingest(folder, collection="docs")
    assert 1 <= n_embedded(model) <= 2


# Whose nodes a call means


@pytest.mark.parametrize("restriction", ["node_ids", "doc_ids"])
def test_the_node_ids_and_doc_ids_of_a_query_are_ignored_in_plain_and_honoured_in_ragstore(
    plain: Plain, ours: Ours, restriction: str
) -> None:
    # run-llama/llama_index#11602, #6740, #14121
    nodes = {name: embedded(nodes_of(name, N)) for name in "ab"}
    wanted = {"node_ids": [node.node_id for node in nodes["b"]], "doc_ids": ["b"]}[restriction]
    question = VectorStoreQuery(nodes["a"][0].embedding, similarity_top_k=20, **{restriction: wanted})  # type: ignore[arg-type]
    found: dict[Stack, set[str | None]] = {}
    for stack in (plain, ours):
        store = stack.context().vector_store
        store.add([*nodes["a"], *nodes["b"]])
        found[stack] = {node.ref_doc_id for node in store.query(question).nodes or []}
    assert found == {plain: {"a", "b"}, ours: {"b"}}


def test_a_second_index_finds_the_nodes_of_the_first_in_plain_and_a_second_collection_finds_none_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    # run-llama/llama_index#16945, #9075
    context = plain.context()
    first = build(context, documents("a"))
    second = VectorStoreIndex([], storage_context=context, embed_model=HashEmbedding())
    assert second.index_id != first.index_id
    assert len(second.as_retriever(similarity_top_k=20).retrieve("Sentence")) == N

    store = ours.store()
    store.create_collection("other", model="external", dim=32)
    build(store.storage_context("docs"), documents("a"))
    assert store.index("other", embed_model=HashEmbedding()).as_retriever().retrieve("Sentence") == []
    # Indexes on one collection do not pretend to be two.
    context = store.storage_context("docs")
    assert VectorStoreIndex([], storage_context=context, embed_model=HashEmbedding()).index_id == "docs"


def test_deleting_the_document_named_none_deletes_all_nodes_without_a_document_in_plain_and_nothing_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    alone = embedded([TextNode(text=f"Alone {i}.") for i in range(4)])
    for stack in (plain, ours):
        stack.context().vector_store.add(alone)
        assert stack.texts().total() == 4
        stack.context().vector_store.delete("None")
    assert plain.texts() == Counter()
    assert ours.texts() == Counter(node.get_content() for node in alone)


def test_asking_for_no_nodes_returns_the_whole_table_in_plain_and_none_in_ragstore(plain: Plain, ours: Ours) -> None:
    nodes = embedded(nodes_of("a", 20))
    found = {}
    for stack in (plain, ours):
        store = stack.context().vector_store
        store.add(nodes)
        found[stack] = len(store.get_nodes([]))
    assert found == {plain: 20, ours: 0}


def test_getting_and_deleting_nodes_by_id_reads_every_row_each_time_in_plain_and_uses_an_index_in_ragstore(
    plain: Plain, ours: Ours
) -> None:
    nodes = embedded([node for i in range(100) for node in nodes_of(f"{i}", N)])
    n_read: dict[Stack, int] = {}
    for stack in (plain, ours):
        stack.context().vector_store.add(nodes)
        before = stack.n_rows_scanned()
        store = stack.context().vector_store
        for node in nodes[:5]:
            assert [found.node_id for found in store.get_nodes([node.node_id])] == [node.node_id]
        store.delete_nodes([nodes[0].node_id])
        n_read[stack] = stack.n_rows_scanned() - before
        assert stack.texts().total() == len(nodes) - 1
    assert n_read[plain] >= 6 * (len(nodes) - 1)
    assert n_read[ours] == 0
