"""The property graph store: what LlamaIndex's own is meant to do, kept in PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from llama_index.core import Document, PropertyGraphIndex, load_index_from_storage
from llama_index.core.graph_stores.simple_labelled import SimplePropertyGraphStore
from llama_index.core.graph_stores.types import ChunkNode, EntityNode, LabelledNode, Relation, Triplet
from llama_index.core.indices.property_graph import VectorContextRetriever
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from ragstore.errors import EmbeddingSpaceError, InvalidNodeError, UsageError
from ragstore.llama import RagstorePropertyGraphStore
from tests.support.graphs import a_property_graph, facts_in, graph_options, people_in
from tests.support.llama_children import Place
from tests.support.llama_faces import Faces, HashEmbedding


@pytest.fixture
def store(faces: Faces) -> RagstorePropertyGraphStore:
    found = faces.context().property_graph_store
    assert isinstance(found, RagstorePropertyGraphStore)
    return found


class Mended(SimplePropertyGraphStore):
    """LlamaIndex's own without the defects that ours names."""

    def upsert_relations(self, relations: list[Relation]) -> None:
        super().upsert_relations(relations)
        for each in relations:
            self.graph.relations[self.graph._get_relation_key(relation=each)] = each

    def get(self, properties: dict[str, Any] | None = None, ids: list[str] | None = None) -> list[LabelledNode]:
        return [] if ids == [] else super().get(properties, ids)

    def delete(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> None:
        if relation_names:
            for subj, rel, obj in self.get_triplets(entity_names, relation_names, properties, ids):
                self.graph.triplets.remove((subj.id, rel.id, obj.id))
            return
        wanted = {n.id for n in self.get(properties, ids)}
        gone = {i for i in wanted if entity_names is None or i in entity_names}
        if entity_names or properties or ids:
            self.graph.nodes = {i: n for i, n in self.graph.nodes.items() if i not in gone}
            self.graph.triplets = {t for t in self.graph.triplets if not {t[0], t[2]} & gone}


NAMES = st.sampled_from(["a", "b", "c", "O'Brien", "%s", "ä"])
LABELS = st.sampled_from(["knows", "likes"])
VALUES = st.sampled_from([1, 2.5, "1", "x' OR '1'='1", None, ["a"], {"k": [1]}])
PROPERTIES = st.dictionaries(st.sampled_from(["p", "%q", "r's"]), VALUES, max_size=2)
ENTITIES = st.builds(EntityNode, name=NAMES, label=LABELS, properties=PROPERTIES)
CHUNKS = st.builds(ChunkNode, id_=NAMES, text=st.sampled_from(["", "one", "two"]), properties=PROPERTIES)
RELATIONS = st.builds(Relation, label=LABELS, source_id=NAMES, target_id=NAMES, properties=PROPERTIES)
# Only a list of names beside other things: alone they are the same question as ids.
NODE_QUERY = st.fixed_dictionaries({}, optional={"properties": PROPERTIES, "ids": st.lists(NAMES, max_size=2)})
QUERY = st.fixed_dictionaries(
    {},
    optional={
        "entity_names": st.lists(NAMES, min_size=1, max_size=2),
        "relation_names": st.lists(LABELS, max_size=1),
        "properties": PROPERTIES,
        "ids": st.lists(NAMES, min_size=1, max_size=2),
    },
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert_nodes"), st.lists(st.one_of(ENTITIES, CHUNKS), max_size=4)),
        st.tuples(st.just("upsert_relations"), st.lists(RELATIONS, max_size=5)),
        st.tuples(st.just("delete"), QUERY),
    ),
    max_size=10,
)


def shown(triplets: list[Triplet]) -> list[str]:
    return sorted(repr((plain(subj), plain(rel), plain(obj))) for subj, rel, obj in triplets)


def plain(part: LabelledNode | Relation) -> dict[str, Any]:
    return dict(sorted(part.model_dump().items())) | {"properties": sorted(part.properties.items())}


def run(step: str, argument: Any, stores: tuple[Any, ...]) -> None:
    for each in stores:
        if step == "delete":
            each.delete(**argument)
        else:
            getattr(each, step)([one.model_copy(deep=True) for one in argument])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, NODE_QUERY, QUERY, st.lists(NAMES, max_size=2), st.integers(0, 4))
def test_it_answers_as_llamaindexs_own_would_without_its_defects(
    store: RagstorePropertyGraphStore,
    steps: list[tuple[str, Any]],
    of_nodes: dict[str, Any],
    of_relations: dict[str, Any],
    near: list[str],
    depth: int,
) -> None:
    store.delete(ids=[node.id for node in store.get()])
    assert store.get() == []
    theirs = Mended()
    for step, argument in steps:
        run(step, argument, (store, theirs))
    assert {n.id: plain(n) for n in store.get()} == {n.id: plain(n) for n in theirs.get()}
    assert sorted(n.id for n in store.get(**of_nodes)) == sorted(n.id for n in theirs.get(**of_nodes))
    everything: dict[str, Any] = {"relation_names": ["knows", "likes"]}
    assert shown(store.get_triplets(**everything)) == shown(theirs.get_triplets(**everything))
    assert shown(store.get_triplets(**of_relations)) == shown(theirs.get_triplets(**of_relations))
    starts: list[LabelledNode] = [EntityNode(name=name) for name in near]
    ours = shown(store.get_rel_map(starts, depth, 10**6, ignore_rels=["likes"]))
    assert ours == sorted(set(shown(theirs.get_rel_map(starts, depth, 10**6, ignore_rels=["likes"]))))


def test_of_two_values_that_python_takes_for_equal_only_the_same_is_found(store: RagstorePropertyGraphStore) -> None:
    store.upsert_nodes([EntityNode(name=f"{value!r}", properties={"p": value}) for value in (1, True, "1", ["1"])])
    for value in (1, True, "1", ["1"]):
        assert [node.id for node in store.get(properties={"p": value})] == [repr(value)]


def test_an_empty_list_means_nothing_and_deletes_nothing(store: RagstorePropertyGraphStore) -> None:
    store.upsert_nodes([EntityNode(name="a"), EntityNode(name="b")])
    nothing: list[dict[str, Any]] = [{}, {"ids": []}, {"entity_names": []}, {"properties": {}}]
    for call in nothing:
        store.delete(**call)
    store.delete_llama_nodes()
    store.delete_llama_nodes(node_ids=[], ref_doc_ids=["None"])
    assert store.get(ids=[]) == [] and store.get_triplets() == [] and store.get_llama_nodes([]) == []
    assert [node.id for node in store.get()] == ["a", "b"]


def test_deleting_an_entity_leaves_no_relation_without_an_end_and_the_others_alone(
    store: RagstorePropertyGraphStore,
) -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "c")]
    store.upsert_relations([Relation(label="to", source_id=s, target_id=t) for s, t in edges])
    store.delete(entity_names=["a"])
    assert [node.id for node in store.get()] == ["b", "c"]
    assert [(s.id, t.id) for s, _, t in store.get_triplets(relation_names=["to"])] == [("b", "c"), ("c", "c")]
    store.delete(relation_names=["to"], ids=["b"])
    assert [node.id for node in store.get()] == ["b", "c"]
    assert [(s.id, t.id) for s, _, t in store.get_triplets(relation_names=["to"])] == [("c", "c")]


def test_a_name_with_quotation_marks_is_one_entity_however_it_is_named(store: RagstorePropertyGraphStore) -> None:
    store.upsert_nodes([EntityNode(name='the "one"', label="put"), ChunkNode(id_='c"1', text="t")])
    store.upsert_relations(
        [
            Relation(label="is", source_id='the "one"', target_id="the  one "),
            Relation(label="in", source_id='the "one"', target_id='c"1'),
        ]
    )
    assert [(node.id, node.label) for node in store.get()] == [("the  one ", "put"), ('c"1', "text_chunk")]
    assert {t[2].id for t in store.get_triplets(entity_names=['the "one"'])} == {"the  one ", 'c"1'}


def test_what_cannot_be_stored_is_refused_before_anything_is_written(store: RagstorePropertyGraphStore) -> None:
    good = EntityNode(name="good")
    for bad in (
        ChunkNode(text="without an id"),
        EntityNode(name=""),
        EntityNode(name="x" * 1025),
        EntityNode(name="x", properties={"p": math.nan}),
        EntityNode(name="x", properties={"p": object()}),
        EntityNode(name="x", embedding=[1.0, math.inf]),
        EntityNode(name="x", embedding=[]),
        ChunkNode(id_="x", text="x" * 13_000_000),
    ):
        with pytest.raises(InvalidNodeError):
            store.upsert_nodes([good, bad])
    with pytest.raises(InvalidNodeError):
        store.upsert_relations(
            [Relation(label="l", source_id="a", target_id="b"), Relation(label="l", source_id="a", target_id="")]
        )
    assert store.get() == []
    with pytest.raises(UsageError):
        store.structured_query("MATCH (n) RETURN n")


def test_entities_are_found_by_similarity_among_those_that_a_filter_allows(store: RagstorePropertyGraphStore) -> None:
    for i in range(8):
        angle = i * math.pi / 8
        node = EntityNode(name=f"{i}", embedding=[math.cos(angle), math.sin(angle)], properties={"odd": i % 2})
        store.upsert_nodes([node])
    store.upsert_nodes(
        [
            ChunkNode(id_="chunk", text="t", embedding=[1.0, 0.0]),
            EntityNode(name="long", embedding=[1.0, 0.0, 0.0]),
            EntityNode(name="zero", embedding=[0.0, 0.0]),
            EntityNode(name="none"),
        ]
    )
    nodes, scores = store.vector_query(VectorStoreQuery(query_embedding=[2.0, 0.0], similarity_top_k=20))
    assert [node.id for node in nodes] == [f"{i}" for i in range(8)]
    assert scores == pytest.approx([math.cos(i * math.pi / 8) for i in range(8)], abs=1e-6)
    odd = MetadataFilters(filters=[MetadataFilter(key="odd", value=1)])
    query = VectorStoreQuery(query_embedding=[2.0, 0.0], similarity_top_k=2, filters=odd)
    assert [node.id for node in asyncio.run(store.avector_query(query))[0]] == ["1", "3"]
    with pytest.raises(EmbeddingSpaceError, match="4"):
        store.vector_query(VectorStoreQuery(query_embedding=[1.0] * 4, similarity_top_k=1))
    with pytest.raises(UsageError):
        store.vector_query(VectorStoreQuery(query_embedding=None, similarity_top_k=1))
    assert store.get(ids=["1"])[0].embedding == pytest.approx([math.cos(math.pi / 8), math.sin(math.pi / 8)])


def test_the_async_twins_do_the_same(store: RagstorePropertyGraphStore) -> None:
    async def use() -> None:
        await store.aupsert_nodes([EntityNode(name="a")])
        await store.aupsert_relations([Relation(label="to", source_id="a", target_id="b")])
        assert [node.id for node in await store.aget()] == ["a", "b"]
        assert len(await store.aget_triplets(ids=["a"])) == len(await store.aget_rel_map([EntityNode(name="a")])) == 1
        assert await store.aget_schema() == {"nodes": ["entity"], "relations": ["to"]}
        await store.adelete(ids=["b"])
        await store.adelete_llama_nodes(node_ids=["a"])
        assert await store.aget() == [] and await store.aget_llama_nodes(["a"]) == []

    for _ in range(2):
        asyncio.run(use())


def test_nodes_come_back_as_they_were_put(store: RagstorePropertyGraphStore) -> None:
    node = TextNode(
        id_="n",
        text="The text.",
        metadata={"page": 3, "title": "ä"},
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d")},
    )
    store.upsert_llama_nodes([node])
    (found,) = store.get_llama_nodes(["n"])
    assert found == node and found.ref_doc_id == "d"


def test_processes_that_put_the_same_relations_double_none_and_wait_for_each_other(place: Place, faces: Faces) -> None:
    relations = [Relation(label="to", source_id=f"s{i % 40}", target_id=f"t{i}") for i in range(600)]
    orders = [relations, relations[::-1], relations[300:] + relations[:300], relations]
    place.run_together([("put_relations", order) for order in orders])
    rows = faces.sql("SELECT source_id, target_id FROM ragstore.graph_relation")
    assert sorted(rows) == sorted((r.source_id, r.target_id) for r in relations)


A = Document(id_="a", text="Ann knows Bob. Bob knows Cid.")
B = Document(id_="b", text="Bob knows Cid. Cid knows Dan.")


def test_a_graph_built_in_one_process_is_loaded_and_asked_in_another(place: Place, faces: Faces) -> None:
    assert place.run("build_graph", [A, B])
    loaded = load_index_from_storage(faces.context(), **graph_options())
    assert isinstance(loaded, PropertyGraphIndex)
    assert facts_in(faces) == [("Ann", "knows", "Bob"), ("Bob", "knows", "Cid"), ("Cid", "knows", "Dan")]
    retriever = VectorContextRetriever(
        loaded.property_graph_store, embed_model=HashEmbedding(), similarity_top_k=1, include_text=True
    )
    hits = retriever.retrieve("Dan")
    assert "Cid -> knows -> Dan" in hits[0].node.get_content()
    assert "Cid knows Dan." in hits[0].node.get_content()


def test_a_deleted_document_takes_what_no_other_states(faces: Faces) -> None:
    index = a_property_graph(faces.context(), A, B)
    index.delete_ref_doc("a", delete_from_docstore=True)
    assert facts_in(faces) == [("Bob", "knows", "Cid"), ("Cid", "knows", "Dan")]
    assert people_in(faces) == ["Bob", "Cid", "Dan"]
    gone = faces.sql("SELECT node_id FROM ragstore.graph_node WHERE node_id = 'a' OR properties ->> 'ref_doc_id' = 'a'")
    assert gone == []
    # What is left names only chunks that are still there.
    unknown = faces.sql(
        "SELECT source FROM (SELECT unnest(sources) FROM ragstore.graph_relation UNION "
        "SELECT unnest(sources) FROM ragstore.graph_node UNION "
        "SELECT properties ->> 'triplet_source_id' FROM ragstore.graph_relation) AS s (source) "
        "WHERE source NOT IN (SELECT node_id FROM ragstore.graph_node WHERE kind = 'chunk')"
    )
    assert unknown == []
    index.delete_ref_doc("b", delete_from_docstore=True)
    assert faces.sql("SELECT node_id FROM ragstore.graph_node") == []
    assert faces.sql("SELECT label FROM ragstore.graph_relation") == []


def test_chunks_are_deleted_by_their_document_in_the_graph_alone(
    faces: Faces, store: RagstorePropertyGraphStore
) -> None:
    a_property_graph(faces.context(), A, B)
    store.delete_llama_nodes(ref_doc_ids=["b"])
    assert facts_in(faces) == [("Ann", "knows", "Bob"), ("Bob", "knows", "Cid")]
    assert people_in(faces) == ["Ann", "Bob", "Cid"]


def test_an_updated_document_changes_its_facts(faces: Faces) -> None:
    index = a_property_graph(faces.context(), A, B)
    changed = Document(id_="b", text="Bob knows Eve.")
    assert index.refresh_ref_docs([A, changed]) == [False, True]
    assert facts_in(faces) == [("Ann", "knows", "Bob"), ("Bob", "knows", "Cid"), ("Bob", "knows", "Eve")]
    assert people_in(faces) == ["Ann", "Bob", "Cid", "Eve"]


def test_what_a_user_put_stays_when_a_document_goes(faces: Faces, store: RagstorePropertyGraphStore) -> None:
    store.upsert_nodes([EntityNode(name="Ann", label="person"), EntityNode(name="Zoe", label="person")])
    store.upsert_relations([Relation(label="knows", source_id="Zoe", target_id="Bob")])
    index = a_property_graph(faces.context(), A)
    index.delete_ref_doc("a", delete_from_docstore=True)
    assert facts_in(faces) == [("Zoe", "knows", "Bob")]
    assert people_in(faces) == ["Ann", "Zoe"]
    assert {node.id for node in store.get()} == {"Ann", "Zoe", "Bob"}


def test_a_graph_is_drawn_as_upstream_draws_it_or_says_what_is_missing(
    store: RagstorePropertyGraphStore, tmp_path: Path
) -> None:
    store.upsert_nodes([EntityNode(name="Ann", label="person"), EntityNode(name="Bob", label="person")])
    store.upsert_relations([Relation(label="knows", source_id="Ann", target_id="Bob")])
    drawing = tmp_path / "graph.html"
    if importlib.util.find_spec("pyvis") is None:
        with pytest.raises(UsageError, match="pyvis") as caught:
            store.save_networkx_graph(str(drawing))
        assert "pip install" in caught.value.hint
    else:
        store.save_networkx_graph(str(drawing))
        assert all(word in drawing.read_text() for word in ("Ann", "Bob", "knows"))
