"""Metadata filters as SQL on the user's metadata, with every key and value a bound parameter.

Types count: a string never equals a number, ``True`` never equals 1, and numbers compare by the decimal value that
JSON writes for them. A value that stored metadata cannot hold (NUL, lone surrogates, NaN, infinity) equals nothing;
in an ordering it has the place that it would have among the values that can be stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ragstore.errors import FilterError
from ragstore.model.filters import DOCUMENT_KEYS, Condition, Filter, Group, Scalar

MAX_DEPTH = 50
"""Far below the depth that overflows Python's recursion or the stack of PostgreSQL's parser."""

_MAX_INDEXED_VALUES = 1000
"""Up to this number the index on the metadata is used for each value; above it, one hashed comparison a row is
cheaper."""

_MAX_INT_BITS = 14_000
"""Python writes no longer integers as text (4,300 digits); in an ordering larger ones count as infinity."""

_FIRST_AFTER_SURROGATES = "\ue000"

_INDEXED_CHARS = 200
"""Characters of a string that a declared key's index contains, as in the function ``ragstore.filter_indexes``."""

Sql = tuple[str, list[Any]]

_TRUE: Final = "TRUE"
_FALSE: Final = "FALSE"

_ORDERINGS: Final = (">", ">=", "<", "<=")
_SERVED: Final = ("==", "in", "any", "all")
_STRING_BEGINS: Final = f"{{kind}} = 'string' AND left({{text}}, {_INDEXED_CHARS}) COLLATE \"C\""


_NEGATIVE: Final = ("!=", "nin", "is_empty")
"""Operators that hold for a document's id and the user's own value where they hold for both."""


@dataclass(frozen=True, slots=True)
class _Columns:
    metadata: str
    document: str
    declared: Collection[str]


def to_sql(
    tree: Filter, column: str = "user_metadata", *, document: str = "document_id", declared: Collection[str] = ()
) -> Sql:
    """Return a boolean expression that is never NULL, and its parameters in the order of its ``%s``.

    ``==``, ``in``, ``any``, ``all`` and ``contains`` of anything but a string can be served by a GIN index
    (``jsonb_path_ops``) on ``column``; on declared keys also orderings, by the indexes of those keys.

    Args:
        column: a ``jsonb NOT NULL`` column that holds an object; part of the SQL text, so never from outside.
        document: expression for the document's id, NULL where a node has none; part of the SQL text as well.
        declared: keys that may have indexes of their own; what the expression says is the same without them.

    Raises:
        FilterError: an operator got a kind of value it cannot compare with, or the tree is too deep.
    """
    return _compiled(tree, _Columns(column, document, declared), 0)


def can_be_served(tree: Filter, declared: Collection[str] = ()) -> bool:
    """Whether indexes find what a filter allows; otherwise only a look at every row does."""
    if isinstance(tree, Group):
        parts = [can_be_served(part, declared) for part in tree.parts]
        return {"and": any(parts), "or": bool(parts) and all(parts), "not": False}[tree.joiner]
    if tree.operator in _ORDERINGS:
        return tree.key in declared and tree.key not in DOCUMENT_KEYS
    if tree.operator == "in" and isinstance(tree.value, Sequence) and len(tree.value) > _MAX_INDEXED_VALUES:
        return tree.key in declared or tree.key in DOCUMENT_KEYS
    return tree.operator in _SERVED or (tree.operator == "contains" and not isinstance(tree.value, str))


def _compiled(tree: Filter, columns: _Columns, depth: int) -> Sql:
    if depth > MAX_DEPTH:
        raise FilterError(f"filter is nested more than {MAX_DEPTH} deep", hint="flatten its groups")
    if isinstance(tree, Group):
        return _group(tree, columns, depth)
    if not isinstance(tree.key, str):
        raise FilterError(f"filter key {tree.key!r} is not a string", hint="metadata keys are strings")
    compile_operator = _OPERATORS.get(tree.operator)
    if compile_operator is None:
        raise FilterError(
            f"unknown filter operator {tree.operator!r} for key {tree.key!r}",
            hint=f"use one of {' '.join(_OPERATORS)}",
            key=tree.key,
            operator=tree.operator,
        )
    exact, params = compile_operator(tree, columns.metadata)
    found = _found_by_index(tree, columns.metadata) if tree.key in columns.declared and exact != _FALSE else None
    if found is not None:
        # Where the exact part is false the whole is, also where the other is NULL.
        exact, params = f"(({found[0]}) AND {exact})", found[1] + params
    if tree.key not in DOCUMENT_KEYS:
        return exact, params
    of_document, more = _of_document(tree, columns.document)
    return f"({of_document} {'AND' if tree.operator in _NEGATIVE else 'OR'} {exact})", more + params


def _group(group: Group, columns: _Columns, depth: int) -> Sql:
    if group.joiner not in ("and", "or", "not"):
        raise FilterError(f"unknown filter group {group.joiner!r}", hint="use one of and or not")
    parts = [_compiled(part, columns, depth + 1) for part in group.parts]
    if not parts:
        return _TRUE, []
    joined = (" AND " if group.joiner == "and" else " OR ").join(text for text, _ in parts)
    params = [param for _, part_params in parts for param in part_params]
    return (f"(NOT ({joined}))" if group.joiner == "not" else f"({joined})"), params


def _equal(condition: Condition, column: str) -> Sql:
    value = _scalar(condition)
    if value is None or not is_storable(condition.key) or not is_storable(value):
        return _FALSE, []
    return f"({column} @> %s::jsonb)", [_json({condition.key: value})]


def _in(condition: Condition, column: str) -> Sql:
    values = [value for value in _scalars(condition) if value is not None and is_storable(value)]
    if not values or not is_storable(condition.key):
        return _FALSE, []
    if len(values) <= _MAX_INDEXED_VALUES or condition.key in DOCUMENT_KEYS:
        return f"({column} @> ANY (%s::jsonb[]))", [[_json({condition.key: value}) for value in values]]
    field = _Field(condition.key, column)
    return field.sql("{value} = ANY (%s::jsonb[])", [_json(value) for value in values])


def _contains(condition: Condition, column: str) -> Sql:
    value = _scalar(condition)
    if not is_storable(condition.key) or not is_storable(value):
        return _FALSE, []
    in_list = f"({column} @> %s::jsonb)", [_json({condition.key: [value]})]
    if not isinstance(value, str):
        return in_list
    in_text, params = _text_match(condition, column)
    return f"({in_list[0]} OR {in_text})", in_list[1] + params


def _any(condition: Condition, column: str) -> Sql:
    values = [value for value in _scalars(condition) if is_storable(value)]
    if not values or not is_storable(condition.key):
        return _FALSE, []
    return f"({column} @> ANY (%s::jsonb[]))", [[_json({condition.key: [value]}) for value in values]]


def _all(condition: Condition, column: str) -> Sql:
    values = _scalars(condition)
    if not is_storable(condition.key) or not all(map(is_storable, values)):
        return _FALSE, []
    return f"({column} @> %s::jsonb)", [_json({condition.key: list(values)})]


def _is_empty(condition: Condition, column: str) -> Sql:
    if not is_storable(condition.key):
        return _TRUE, []
    empty = "ARRAY['null', '\"\"', '[]']::jsonb[]"
    return f"(COALESCE({column} -> %s::text, 'null') = ANY ({empty}))", [condition.key]


def _text_match(condition: Condition, column: str) -> Sql:
    return _substring(condition, column, "strpos({text}, %s::text) > 0")


def _text_match_insensitive(condition: Condition, column: str) -> Sql:
    return _substring(condition, column, "strpos(lower({text}), lower(%s::text)) > 0")


def _substring(condition: Condition, column: str, comparison: str) -> Sql:
    value = condition.value
    if not isinstance(value, str):
        raise _wrong_value(condition, "a string")
    if not is_storable(condition.key) or not is_storable(value):
        return _FALSE, []
    return _Field(condition.key, column).sql("{kind} = 'string' AND " + comparison, value)


def _ordering(condition: Condition, column: str) -> Sql:
    value = condition.value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong_value(condition, "a number or a string")
    if not is_storable(condition.key):
        return _FALSE, []
    field = _Field(condition.key, column)
    if isinstance(value, str):
        operator, bound = _text_bound(condition.operator, value)
        return field.sql(f"{{kind}} = 'string' AND {{text}} COLLATE \"C\" {operator} %s::text", bound)
    if is_storable(value):
        return field.sql(f"{{kind}} = 'number' AND {{value}} {condition.operator} %s::jsonb", _json(value))
    beyond_all = value > 0 if condition.operator.startswith("<") else value < 0
    return field.sql("{kind} = 'number'") if beyond_all else (_FALSE, [])


def _text_bound(operator: str, value: str) -> tuple[str, str]:
    """The comparison with a storable string that orders all storable strings as ``value`` does."""
    for position, char in enumerate(value):
        prefix = value[:position]
        if char == "\0":  # directly after its prefix, before every longer string
            return (">" if operator.startswith(">") else "<="), prefix
        if _is_surrogate(char):  # before everything that continues with a higher character
            return (">=" if operator.startswith(">") else "<"), prefix + _FIRST_AFTER_SURROGATES
    return operator, value


def _found_by_index(condition: Condition, column: str) -> Sql | None:
    """A condition that is true wherever the given one is, in the form that a declared key's indexes support."""
    field = _Field(condition.key, column)
    if condition.operator in ("==", "in"):
        values = _scalars(condition) if condition.operator == "in" else [_scalar(condition)]
        return _one_of(field, [value for value in values if value is not None and is_storable(value)])
    value = condition.value
    if condition.operator not in _ORDERINGS or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str):
        operator, bound = _text_bound(condition.operator, value)
        # Two beginnings may be the same where the strings are not.
        return field.plain(f"{_STRING_BEGINS} {operator[0]}= %s::text", bound[:_INDEXED_CHARS])
    if is_storable(value):
        return field.plain(f"{{kind}} = 'number' AND {{value}} {condition.operator} %s::jsonb", _json(value))
    return None


def _one_of(field: _Field, values: Sequence[Scalar]) -> Sql | None:
    """Equal to one of some strings and numbers; of others the index has nothing."""
    texts = [value[:_INDEXED_CHARS] for value in values if isinstance(value, str)]
    numbers = [_json(value) for value in values if not isinstance(value, str | bool)]
    if not values or len(texts) + len(numbers) < len(values):
        return None
    parts = []
    if texts:
        parts.append(field.plain(f"{_STRING_BEGINS} = ANY (%s::text[])", texts))
    if numbers:
        parts.append(field.plain("{kind} = 'number' AND {value} = ANY (%s::jsonb[])", numbers))
    return " OR ".join(text for text, _ in parts), [param for _, params in parts for param in params]


def _of_document(condition: Condition, column: str) -> Sql:
    """The condition on the document's id alone, never NULL; its value was checked for the metadata."""
    operator, value = condition.operator, condition.value
    if operator == "is_empty":
        return f"({column} IS NULL)", []
    listed = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    texts = [each for each in listed if isinstance(each, str)]
    if operator == "all":
        return _id_is_all(listed, column)
    if operator in ("==", "in", "any"):
        return _id_is_one_of(texts, column)
    if operator in ("!=", "nin"):
        text, params = _id_is_one_of(texts, column)
        return f"(NOT {text})", params
    return _id_compares(operator, texts[0], column) if texts else (_FALSE, [])


def _id_is_one_of(texts: Sequence[str], column: str) -> Sql:
    ids = [each for each in texts if is_storable(each)]
    # An index finds it by the second part; the first makes it false, not NULL, where there is no document.
    return (f"({column} IS NOT NULL AND {column} = ANY (%s::text[]))", [ids]) if ids else (_FALSE, [])


def _id_is_all(values: Sequence[Scalar], column: str) -> Sql:
    if not values:
        return f"({column} IS NOT NULL)", []
    first = values[0]
    return _id_is_one_of([first], column) if isinstance(first, str) and {*values} == {first} else (_FALSE, [])


def _id_compares(operator: str, text: str, column: str) -> Sql:
    if operator in _ORDERINGS:
        operator, text = _text_bound(operator, text)
        return f'({column} IS NOT NULL AND {column} COLLATE "C" {operator} %s::text)', [text]
    if not is_storable(text):
        return _FALSE, []
    found = "strpos({0}, %s::text)" if operator != "text_match_insensitive" else "strpos(lower({0}), lower(%s::text))"
    return f"({column} IS NOT NULL AND {found.format(column)} > 0)", [text]


class _Field:
    """One key of the metadata, as text for SQL templates: ``{kind}``, ``{value}`` and ``{text}``."""

    def __init__(self, key: str, column: str) -> None:
        self._key = key
        self._forms = {
            "kind": f"jsonb_typeof({column} -> %s::text)",
            "value": f"({column} -> %s::text)",
            "text": f"({column} ->> %s::text)",
        }

    def sql(self, template: str, *last: Any) -> Sql:
        """Fill in the forms, each of which takes the key, before the value; a missing key makes it false."""
        text, params = self.plain(template, *last)
        return f"(({text}) IS TRUE)", params

    def plain(self, template: str, *last: Any) -> Sql:
        """The same, but NULL where the key is missing: with anything around it no index would be used."""
        return template.format_map(self._forms), [self._key] * template.count("{") + list(last)


def _negated(positive: Callable[[Condition, str], Sql]) -> Callable[[Condition, str], Sql]:
    """The operator that holds exactly where ``positive`` does not: also for missing keys and null."""

    def negative(condition: Condition, column: str) -> Sql:
        text, params = positive(condition, column)
        return f"(NOT {text})", params

    return negative


def _scalar(condition: Condition) -> Scalar:
    value = condition.value
    if value is None or isinstance(value, str | int | float):
        return value
    raise _wrong_value(condition, "a string, number, boolean or null")


def _scalars(condition: Condition) -> Sequence[Scalar]:
    values = condition.value
    is_list = isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray)
    if isinstance(values, Sequence) and is_list and all(_is_scalar(value) for value in values):
        return values
    raise _wrong_value(condition, "a list of strings, numbers or booleans")


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _wrong_value(condition: Condition, wanted: str) -> FilterError:
    return FilterError(
        f"filter operator {condition.operator!r} on key {condition.key!r} "
        f"cannot use a value of type {type(condition.value).__name__}",
        hint=f"give {wanted}",
        key=condition.key,
        operator=condition.operator,
    )


def is_storable(value: Scalar) -> bool:
    """Whether metadata in the table can contain the value at all."""
    if isinstance(value, str):
        return not any(char == "\0" or _is_surrogate(char) for char in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or value.bit_length() <= _MAX_INT_BITS


def _is_surrogate(char: str) -> bool:
    return "\ud800" <= char <= "\udfff"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


_OPERATORS: Final[Mapping[str, Callable[[Condition, str], Sql]]] = {
    "==": _equal,
    "!=": _negated(_equal),
    ">": _ordering,
    ">=": _ordering,
    "<": _ordering,
    "<=": _ordering,
    "in": _in,
    "nin": _negated(_in),
    "contains": _contains,
    "any": _any,
    "all": _all,
    "is_empty": _is_empty,
    "text_match": _text_match,
    "text_match_insensitive": _text_match_insensitive,
}
