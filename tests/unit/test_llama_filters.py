"""LlamaIndex's metadata filters as ragstore's."""

from __future__ import annotations

import pytest
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from ragstore.errors import FilterError
from ragstore.llama.filters import Restriction, to_restriction
from ragstore.model.filters import Condition, Group


def a_filter(key: str, value: object = 1, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


@pytest.mark.parametrize("operator", list(FilterOperator))
def test_every_operator_has_its_own(operator: FilterOperator) -> None:
    found = to_restriction(MetadataFilters(filters=[a_filter("k", ["v"], operator)]))
    assert found.filter == Group("and", [Condition("k", operator.value, ["v"])])


@pytest.mark.parametrize("condition", [*FilterCondition, None])
def test_every_condition_has_its_own_and_groups_nest(condition: FilterCondition | None) -> None:
    joiner = condition.value if condition else "and"
    inner = MetadataFilters(filters=[a_filter("a"), a_filter("b")], condition=condition)
    found = to_restriction(MetadataFilters(filters=[inner, a_filter("c")], condition=condition))
    expected_inner = Group(joiner, [Condition("a", "==", 1), Condition("b", "==", 1)])
    assert found.filter == Group(joiner, [expected_inner, Condition("c", "==", 1)])


def test_no_filter_restricts_nothing() -> None:
    assert to_restriction(None) == to_restriction(MetadataFilters(filters=[])) == Restriction()


@pytest.mark.parametrize("key", ["ref_doc_id", "doc_id", "document_id"])
def test_the_document_is_asked_for_by_its_id(key: str) -> None:
    one = MetadataFilters(filters=[a_filter(key, "d"), a_filter("k")])
    assert to_restriction(one) == Restriction(Group("and", [Condition("k", "==", 1)]), ["d"])
    many = MetadataFilters(filters=[a_filter(key, ["d", "e"], FilterOperator.IN)])
    assert to_restriction(many, document_ids=["e", "f"]) == Restriction(None, ["e"])
    assert to_restriction(one, document_ids=["other"]).document_ids == []


@pytest.mark.parametrize(
    "filters",
    [
        MetadataFilters(filters=[a_filter("ref_doc_id", "d"), a_filter("k")], condition=FilterCondition.OR),
        MetadataFilters(filters=[a_filter("ref_doc_id", "d")], condition=FilterCondition.NOT),
        MetadataFilters(filters=[MetadataFilters(filters=[a_filter("ref_doc_id", "d")])]),
        MetadataFilters(filters=[a_filter("ref_doc_id", "d", FilterOperator.NE)]),
    ],
)
def test_the_document_cannot_be_asked_for_where_it_would_be_taken_for_metadata(filters: MetadataFilters) -> None:
    with pytest.raises(FilterError) as caught:
        to_restriction(filters)
    assert caught.value.hint
