"""LlamaIndex's metadata filters as ragstore's."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from ragstore.llama.filters import Restriction, to_restriction
from ragstore.model.filters import Condition, Group


def a_filter(key: str, value: Any = 1, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


@pytest.mark.parametrize("operator", list(FilterOperator))
def test_every_operator_has_its_own(operator: FilterOperator) -> None:
    found = to_restriction(MetadataFilters(filters=[a_filter("k", ["v"], operator)]))
    assert found.filter == Group("and", [Condition("k", operator.value, ["v"])])


@pytest.mark.parametrize("condition", [*FilterCondition, None])
def test_every_condition_has_its_own_and_groups_nest(condition: FilterCondition | None) -> None:
    joiner: Any = condition.value if condition else "and"
    inner = MetadataFilters(filters=[a_filter("a"), a_filter("b")], condition=condition)
    found = to_restriction(MetadataFilters(filters=[inner, a_filter("c")], condition=condition))
    expected_inner = Group(joiner, [Condition("a", "==", 1), Condition("b", "==", 1)])
    assert found.filter == Group(joiner, [expected_inner, Condition("c", "==", 1)])


def test_no_filter_restricts_nothing() -> None:
    assert to_restriction(None) == to_restriction(MetadataFilters(filters=[])) == Restriction()


@pytest.mark.parametrize("key", ["ref_doc_id", "doc_id", "document_id"])
def test_the_documents_id_is_asked_for_wherever_it_stands(key: str) -> None:
    inner = MetadataFilters(filters=[a_filter(key, ["d"], FilterOperator.NIN)], condition=FilterCondition.NOT)
    found = to_restriction(MetadataFilters(filters=[inner, a_filter(key, "d")], condition=FilterCondition.OR))
    of_inner = Group("not", [Condition(key, "nin", ["d"])])
    assert found == Restriction(Group("or", [of_inner, Condition(key, "==", "d")]))


def test_document_ids_of_a_query_stay_a_restriction_of_their_own() -> None:
    one = MetadataFilters(filters=[a_filter("doc_id", "d")])
    expected = Restriction(Group("and", [Condition("doc_id", "==", "d")]), ["e"], ["n"])
    assert to_restriction(one, document_ids=["e"], node_ids=["n"]) == expected
