"""LlamaIndex's metadata filters as ragstore's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from ragstore.errors import FilterError
from ragstore.model.filters import Condition, Filter, Group, Joiner, Operator

_OPERATORS: dict[str, Operator] = {operator: operator for operator in get_args(Operator)}
_JOINERS: dict[str, Joiner] = {joiner: joiner for joiner in get_args(Joiner)}

_DOCUMENT_KEYS = frozenset({"ref_doc_id", "document_id", "doc_id"})
"""Keys under which LlamaIndex's vector stores keep the id of a node's document, beside the user's metadata."""


@dataclass(frozen=True, slots=True)
class Restriction:
    """What a query's filters, document ids and node ids allow together."""

    filter: Filter | None = None
    document_ids: Sequence[str] | None = None
    node_ids: Sequence[str] | None = None


def to_restriction(
    filters: MetadataFilters | None,
    *,
    document_ids: Sequence[str] | None = None,
    node_ids: Sequence[str] | None = None,
) -> Restriction:
    """Translate filters; conditions on the document's id, which is no metadata, join ``document_ids``.

    Raises:
        FilterError: an operator or condition that is not known, or a document's id where it cannot be asked for.
    """
    if filters is None or not filters.filters:
        return Restriction(None, document_ids, node_ids)
    rest: list[MetadataFilter | MetadataFilters] = []
    for each in filters.filters:
        if _joiner(filters.condition) == "and" and isinstance(each, MetadataFilter) and each.key in _DOCUMENT_KEYS:
            document_ids = _both(document_ids, _documents_of(each))
        else:
            rest.append(each)
    group = Group(_joiner(filters.condition), [_translated(each) for each in rest])
    return Restriction(group if rest else None, document_ids, node_ids)


def _translated(each: MetadataFilter | MetadataFilters) -> Filter:
    if isinstance(each, MetadataFilters):
        return Group(_joiner(each.condition), [_translated(part) for part in each.filters])
    if each.key in _DOCUMENT_KEYS:
        raise FilterError(
            f"filter on {each.key!r} stands below 'or', 'not' or another group",
            hint="ask for documents with doc_ids, or in a filter joined by 'and' at the top",
            key=each.key,
        )
    operator = _OPERATORS.get(each.operator.value)
    if operator is None:
        raise FilterError(f"unknown filter operator {each.operator!r} for key {each.key!r}", key=each.key)
    return Condition(each.key, operator, each.value)


def _documents_of(each: MetadataFilter) -> list[str]:
    if each.operator == FilterOperator.EQ and isinstance(each.value, str):
        return [each.value]
    if each.operator == FilterOperator.IN and isinstance(each.value, list):
        return [value for value in each.value if isinstance(value, str)]
    raise FilterError(
        f"filter on {each.key!r} uses {each.operator.value!r}", hint="documents are found by == and in", key=each.key
    )


def _both(known: Sequence[str] | None, more: Sequence[str]) -> list[str]:
    return [document_id for document_id in more if known is None or document_id in known]


def _joiner(condition: FilterCondition | None) -> Joiner:
    joiner = _JOINERS.get((condition or FilterCondition.AND).value)
    if joiner is None:
        raise FilterError(f"unknown filter condition {condition!r}", hint="use and, or, not")
    return joiner
