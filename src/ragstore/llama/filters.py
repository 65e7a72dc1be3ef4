"""Translation of LlamaIndex's metadata filters into ragstore's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from llama_index.core.vector_stores.types import FilterCondition, MetadataFilter, MetadataFilters

from ragstore.errors import FilterError
from ragstore.model.filters import Condition, Filter, Group, Joiner, Operator

_OPERATORS: dict[str, Operator] = {operator: operator for operator in get_args(Operator)}
_JOINERS: dict[str, Joiner] = {joiner: joiner for joiner in get_args(Joiner)}


@dataclass(frozen=True, slots=True)
class Restriction:
    """The filter, document ids and node ids of a query; a node must match all that are given."""

    filter: Filter | None = None
    document_ids: Sequence[str] | None = None
    node_ids: Sequence[str] | None = None


def to_restriction(
    filters: MetadataFilters | None,
    *,
    document_ids: Sequence[str] | None = None,
    node_ids: Sequence[str] | None = None,
) -> Restriction:
    """Translate a query's filters, and keep its document and node ids.

    Raises:
        FilterError: an operator or condition is unknown.
    """
    if filters is None or not filters.filters:
        return Restriction(None, document_ids, node_ids)
    return Restriction(_translated(filters), document_ids, node_ids)


def _translated(each: MetadataFilter | MetadataFilters) -> Filter:
    if isinstance(each, MetadataFilters):
        return Group(_joiner(each.condition), [_translated(part) for part in each.filters])
    operator = _OPERATORS.get(each.operator.value)
    if operator is None:
        raise FilterError(f"unknown filter operator {each.operator!r} for key {each.key!r}", key=each.key)
    return Condition(each.key, operator, each.value)


def _joiner(condition: FilterCondition | None) -> Joiner:
    joiner = _JOINERS.get((condition or FilterCondition.AND).value)
    if joiner is None:
        raise FilterError(f"unknown filter condition {condition!r}", hint="use and, or, not")
    return joiner
