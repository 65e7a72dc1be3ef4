"""The graph store of plain triplets: what LlamaIndex's own does, kept in PostgreSQL."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from llama_index.core import KnowledgeGraphIndex, StorageContext, load_index_from_storage
from llama_index.core.graph_stores.simple import SimpleGraphStore
from llama_index.core.graph_stores.types import GraphStore
from llama_index.core.llms import MockLLM

from ragstore.errors import InvalidNodeError, UsageError
from ragstore.llama import RagstoreGraphStore
from tests.support.graphs import a_fact, triplets_in
from tests.support.llama_children import Place
from tests.support.llama_faces import Faces, HashEmbedding, a_document, a_splitter, faces_on


@pytest.fixture
def store(faces: Faces) -> RagstoreGraphStore:
    found = faces.context().graph_store
    assert isinstance(found, RagstoreGraphStore)
    return found


class Mended(SimpleGraphStore):
    """LlamaIndex's own, whose ``delete`` looks for a tuple among lists."""

    def delete(self, subj: str, rel: str, obj: str) -> None:
        rest = [each for each in self._data.graph_dict.get(subj, []) if each != [rel, obj]]
        self._data.graph_dict[subj] = rest
        if not rest:
            del self._data.graph_dict[subj]


NAMES = st.sampled_from(["a", "b", "c", "d", "O'Brien", "x\"'%s\\", "ä", "1"])
TRIPLETS = st.tuples(NAMES, st.sampled_from(["knows", "likes", "%(x)s"]), NAMES)
STEPS = st.lists(st.tuples(st.sampled_from(["upsert", "upsert", "upsert", "delete"]), TRIPLETS), max_size=25)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.lists(NAMES, max_size=4), st.integers(0, 4), st.integers(0, 29))
def test_it_answers_as_llamaindexs_own(
    faces: Faces,
    store: RagstoreGraphStore,
    steps: list[tuple[str, tuple[str, str, str]]],
    asked: list[str],
    depth: int,
    limit: int,
) -> None:
    for subject in triplets_in(faces):
        store.delete(*subject)
    theirs = Mended()
    for step, triplet in steps:
        for each in (store, theirs):
            each.upsert_triplet(*triplet) if step == "upsert" else each.delete(*triplet)
    for name in ("a", "b", "O'Brien", "nobody"):
        assert store.get(name) == theirs.get(name)
    assert store.get_rel_map(asked, depth, limit) == theirs.get_rel_map(asked, depth, limit)
    # The order of subjects differs where one lost its first triplet: compared without a limit.
    assert store.get_rel_map(None, 2, 10**6) == theirs.get_rel_map(None, 2, 10**6)


def test_it_is_a_graph_store_that_refuses_what_it_cannot_do(store: RagstoreGraphStore) -> None:
    assert isinstance(store, GraphStore)
    with pytest.raises(UsageError):
        store.query("MATCH (n) RETURN n")
    store.upsert_triplet("a", "knows", "b")
    assert store.get_schema() == "relations: knows"
    for triplet in (("", "knows", "b"), ("a" * 1025, "knows", "b"), ("a", "k" * 513, "b")):
        with pytest.raises(InvalidNodeError, match="bytes cannot be stored"):
            store.upsert_triplets([("c", "knows", "d"), triplet])
    assert store.get("c") == []
    store.upsert_triplet("ä" * 512, "k" * 512, "z" * 1024)
    assert store.get("ä" * 512) == [["k" * 512, "z" * 1024]]


def test_a_limit_holds_for_subjects_that_are_reached_too(store: RagstoreGraphStore) -> None:
    store.upsert_triplets([("hub", "has", f"{i:03}") for i in range(50)])
    store.upsert_triplet("start", "to", "hub")
    found = store.get_rel_map(["start"], depth=2, limit=45)
    assert found == {"start": [["start", "to", "hub"], *(["hub", "has", f"{i:03}"] for i in range(44))]}


def test_deep_paths_around_a_circle_end_at_the_limit(store: RagstoreGraphStore) -> None:
    store.upsert_triplets([("a", "to", "b"), ("b", "to", "a"), ("a", "to", "a")])
    assert len(store.get_rel_map(["a"], depth=5_000, limit=1_000)["a"]) == 1_000


def test_another_process_sees_what_was_put(place: Place, faces: Faces) -> None:
    assert place.run("put_triplets", [a_fact(1), a_fact(2)])
    assert triplets_in(faces) == [a_fact(1), a_fact(2)]
    assert faces.context().graph_store.get(a_fact(1)[0]) == [list(a_fact(1)[1:])]


def test_processes_that_put_the_same_triplets_double_none_and_wait_for_each_other(place: Place, faces: Faces) -> None:
    facts = [a_fact(i) for i in range(3_000)]
    orders = [facts, facts[::-1], facts[1_500:] + facts[:1_500], facts]
    place.run_together([("put_triplets", order) for order in orders])
    assert sorted(triplets_in(faces)) == sorted(facts)


def test_collections_have_graphs_of_their_own(place: Place, faces: Faces, store: RagstoreGraphStore) -> None:
    store.upsert_triplet("a", "knows", "b")
    with faces_on(place.postgres_url, place.mongo_url, place.mongo_name, name="other") as other:
        graph = other.context().graph_store
        assert graph.get("a") == [] and graph.get_rel_map() == {}
        graph.upsert_triplet("a", "knows", "c")
        graph.delete("a", "knows", "b")
    assert store.get("a") == [["knows", "b"]]


def a_knowledge_graph(context: StorageContext) -> KnowledgeGraphIndex:
    return KnowledgeGraphIndex.from_documents(
        [a_document("a", n_sentences=3)],
        storage_context=context,
        transformations=[a_splitter()],
        llm=MockLLM(),
        embed_model=HashEmbedding(),
        kg_triplet_extract_fn=lambda text: [("Ann", "wrote", text)],
        include_embeddings=True,
    )


@pytest.mark.filterwarnings("ignore:Call to deprecated class KnowledgeGraphIndex")
def test_a_knowledge_graph_index_is_loaded_with_its_triplets(faces: Faces) -> None:
    built = a_knowledge_graph(faces.context())
    loaded = load_index_from_storage(
        faces.context(), index_id=built.index_id, llm=MockLLM(), embed_model=HashEmbedding()
    )
    assert isinstance(loaded, KnowledgeGraphIndex)
    assert loaded.graph_store.get("Ann") == [["wrote", f"Sentence {i} of a in version 1 is here."] for i in range(3)]
    assert loaded.index_struct.table == built.index_struct.table
    assert loaded.index_struct.embedding_dict.keys() == built.index_struct.embedding_dict.keys()
    assert set(loaded.ref_doc_info) == {"a"}
