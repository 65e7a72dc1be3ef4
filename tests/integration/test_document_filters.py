"""Filters on the document's id, by the names that LlamaIndex code uses for it, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from pymongo.database import Database

from ragstore.model.filters import Condition, Group
from ragstore.postgres.filters import to_sql
from ragstore.query.filter_text import parse_filters
from ragstore.query.search import Question, search
from tests.support.llama_faces import DIM, Faces, HashEmbedding
from tests.support.plain_stack import Plain, build
from tests.support.servers import Servers

KEYS = ["doc_id", "document_id", "ref_doc_id"]
IDS = ["alpha", "beta", "Gamma", "delta's", "e p s"]


@pytest.fixture
def plain(test_servers: Servers, postgres_database: str, mongo_database: Database[dict[str, Any]]) -> Iterator[Plain]:
    stack = Plain(postgres_database, test_servers.mongo_url, mongo_database.name)
    yield stack
    stack.close()


def documents() -> list[Document]:
    """Every other one is private."""
    return [
        Document(id_=name, text=f"The text of {name} is this.", metadata={"private": "true" if i % 2 else "false"})
        for i, name in enumerate(IDS)
    ]


def a_filter(key: str, value: Any, operator: str = "==") -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


def joined(*filters: Any, condition: str = "and") -> MetadataFilters:
    return MetadataFilters(filters=list(filters), condition=FilterCondition(condition))


def generate_filters(doc_ids: list[str]) -> MetadataFilters:
    """As create-llama puts it into every app."""
    public_doc_filter = MetadataFilter(
        key="private",
        value="true",
        operator="!=",  # type: ignore[arg-type]
    )
    selected_doc_filter = MetadataFilter(
        key="doc_id",
        value=doc_ids,
        operator="in",  # type: ignore[arg-type]
    )
    if len(doc_ids) > 0:
        return MetadataFilters(
            filters=[
                public_doc_filter,
                selected_doc_filter,
            ],
            condition="or",  # type: ignore[arg-type]
        )
    return MetadataFilters(filters=[public_doc_filter])


def found(store: Any, filters: MetadataFilters) -> set[str]:
    """The same by a query and by ``get_nodes``, for each of the modes that PGVectorStore has."""
    query = VectorStoreQuery(query_embedding=[1.0] * DIM, query_str="text", similarity_top_k=20, filters=filters)
    nodes = store.query(query).nodes or []
    assert sorted(n.node_id for n in nodes) == sorted(n.node_id for n in store.get_nodes(filters=filters))
    return {node.ref_doc_id for node in nodes}


def test_create_llamas_own_filter_finds_public_documents_and_the_selected_ones(faces: Faces) -> None:
    index = VectorStoreIndex.from_documents(documents(), storage_context=faces.context(), embed_model=HashEmbedding())
    for selected in ([], ["beta"], ["beta", "alpha"], ["nothing"]):
        hits = index.as_retriever(similarity_top_k=9, filters=generate_filters(selected)).retrieve("text")
        assert {hit.node.ref_doc_id for hit in hits} == {"alpha", "Gamma", "e p s", *selected} - {"nothing"}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("==", "beta", {"beta"}),
        ("==", "x' OR '1'='1", set()),
        ("==", 7, set()),
        ("!=", "beta", {*IDS} - {"beta"}),
        ("in", ["beta", "alpha", "none"], {"beta", "alpha"}),
        ("in", [], set()),
        ("nin", ["beta", "alpha"], {*IDS} - {"beta", "alpha"}),
        ("any", ["beta", "Gamma"], {"beta", "Gamma"}),
        ("all", ["beta"], {"beta"}),
        ("all", ["beta", "alpha"], set()),
        (">", "beta", {"delta's", "e p s"}),
        ("<=", "alpha", {"alpha", "Gamma"}),
        ("contains", "a's", {"delta's"}),
        ("text_match", "amma", {"Gamma"}),
        ("text_match", "gamma", set()),
        ("text_match_insensitive", "gAMMA", {"Gamma"}),
        ("is_empty", None, set()),
    ],
)
def test_every_operator_asks_for_the_documents_id(
    faces: Faces, key: str, operator: str, value: Any, expected: set[str]
) -> None:
    faces.index().refresh_ref_docs(documents())
    store = faces.context().vector_store
    one = a_filter(key, value, operator)
    assert found(store, joined(one)) == found(store, joined(joined(one), condition="or")) == expected
    assert found(store, joined(one, condition="not")) == {*IDS} - expected
    assert found(store, joined(one, a_filter("private", "true"), condition="or")) == expected | {"beta", "delta's"}
    for mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.MMR):
        query = VectorStoreQuery([1.0] * DIM, 20, query_str="text", mode=mode, filters=joined(one, condition="not"))
        assert {node.ref_doc_id for node in store.query(query).nodes or []} == {*IDS} - expected
    store.delete_nodes(filters=joined(one))
    assert {node.ref_doc_id for node in store.get_nodes(filters=joined(a_filter(key, "", "!=")))} == {*IDS} - expected
    faces.assert_agree()


_values = st.sampled_from([*IDS, "alph", "zz", "GAMMA"])
_lists = st.lists(_values, min_size=1, max_size=3)
_conditions = st.one_of(
    st.builds(a_filter, st.sampled_from(KEYS), _values, st.sampled_from(["==", "!=", ">", "<", ">=", "<="])),
    st.builds(a_filter, st.sampled_from(KEYS), _lists, st.sampled_from(["in", "nin", "any", "all"])),
    st.builds(a_filter, st.sampled_from(KEYS), _values, st.sampled_from(["text_match", "text_match_insensitive"])),
    st.builds(a_filter, st.sampled_from([*KEYS, "nowhere"]), st.none(), st.just("is_empty")),
    st.builds(a_filter, st.just("private"), st.sampled_from(["true", "false"]), st.sampled_from(["==", "!="])),
)
_trees = st.recursive(
    st.lists(_conditions, min_size=1, max_size=3).map(lambda parts: joined(*parts)),
    lambda inner: st.builds(
        lambda parts, condition: joined(*parts, condition=condition),
        st.lists(st.one_of(_conditions, inner), min_size=1, max_size=3),
        st.sampled_from(["and", "or"]),
    ),
    max_leaves=4,
)


def _without_quotes(tree: MetadataFilters) -> MetadataFilters:
    """PGVectorStore pastes values into SQL, where a quote ends them: doubled it means itself."""

    def doubled(value: Any) -> Any:
        return [doubled(each) for each in value] if isinstance(value, list) else value and value.replace("'", "''")

    parts = [
        _without_quotes(part)
        if isinstance(part, MetadataFilters)
        else MetadataFilter(key=part.key, value=doubled(part.value), operator=part.operator)
        for part in tree.filters
    ]
    return MetadataFilters(filters=parts, condition=tree.condition)


def test_any_filter_tree_finds_what_plain_pgvectorstore_finds(faces: Faces, plain: Plain) -> None:
    context = plain.context()
    build(context, documents())
    # Its orderings follow the database's language, ours the characters.
    faces.index().refresh_ref_docs(documents())
    ours, theirs = faces.context().vector_store, context.vector_store

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(tree=_trees)
    def agree(tree: MetadataFilters) -> None:
        expected = {node.ref_doc_id for node in theirs.get_nodes(filters=_without_quotes(tree))}
        assert found(ours, tree) == expected

    agree()


def a_node(name: str, document: str | None = None, **metadata: Any) -> TextNode:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)} if document else {}
    vector = HashEmbedding().vector_of(name)
    return TextNode(id_=name, text=name, embedding=vector, metadata=metadata, relationships=source)


@pytest.mark.parametrize("key", KEYS)
def test_a_users_own_value_under_that_key_matches_too(faces: Faces, key: str) -> None:
    """Either for what is asked to be, both for what is asked not to be."""
    store = faces.context().vector_store
    store.add([a_node("own", "d", **{key: "mine"}), a_node("other", "mine"), a_node("none"), a_node("list", "d")])
    store.add([a_node("alone", None, **{key: ["mine", "x"]})])

    def ids(operator: str, value: Any = None, condition: str = "and") -> set[str]:
        filters = joined(a_filter(key, value, operator), condition=condition)
        return {node.node_id for node in store.get_nodes(filters=filters)}

    assert ids("==", "mine") == {"own", "other"} and ids("==", "d") == {"own", "list"}
    assert ids("!=", "mine") == {"none", "list", "alone"} == ids("==", "mine", "not")
    assert ids("in", ["mine"]) == {"own", "other"} and ids("nin", ["mine", "d"]) == {"none", "alone"}
    assert ids("any", ["mine"]) == {"other", "alone"} and ids("contains", "mine") == {"own", "other", "alone"}
    assert ids("is_empty") == {"none"} and ids("is_empty", condition="not") == {"own", "other", "list", "alone"}
    other_key = next(each for each in KEYS if each != key)
    filters = joined(a_filter(other_key, "mine"))
    assert {node.node_id for node in store.get_nodes(filters=filters)} == {"other"}


@pytest.mark.parametrize("key", KEYS)
def test_the_command_lines_and_pythons_filters_mean_the_same(faces: Faces, key: str) -> None:
    store = faces.context().vector_store
    store.add([a_node("own", "d", **{key: "mine"}), a_node("other", "mine"), a_node("none")])

    def ids(tree: Condition | Group | None) -> set[str]:
        question = Question(vector=[1.0] * DIM, mode="vector", filters=tree)
        return {hit.node_id for hit in search(faces.backend.pool, faces.collection, question)}

    assert ids(Condition(key, "==", "mine")) == ids(parse_filters([f"{key}=mine"])) == {"own", "other"}
    assert ids(parse_filters([f"{key}!=mine"])) == {"none"}
    assert ids(parse_filters([f"{key}:in=mine,x"])) == {"own", "other"}
    assert ids(parse_filters([f'{{"not": [{{"key": "{key}", "value": "d"}}]}}'])) == {"other", "none"}


def test_a_documents_nodes_are_found_by_an_index_among_many(faces: Faces) -> None:
    store = faces.context().vector_store
    store.add([a_node(f"n{i}", f"d{i % 500}") for i in range(2000)])
    faces.sql(f"ANALYZE ragstore.{faces.collection.table}; SELECT 1")
    for condition in (Condition("doc_id", "==", "d7"), Condition("doc_id", "in", ["d7", "d8"])):
        text, values = to_sql(condition)
        statement = f"EXPLAIN SELECT node_id FROM ragstore.{faces.collection.table} WHERE {text}"
        plan = "\n".join(row[0] for row in faces.sql(statement, *values))
        assert "BitmapOr" in plan and "Seq Scan" not in plan, plan
