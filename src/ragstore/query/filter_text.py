"""Metadata filters in the text form that a user types.

::

    key=value      equal                   key!=value     not equal, or no such key
    key>value      key>=value              key<value      key<=value
    key~text       holds the text          key~*text      the same, whatever the case
    key:in=a,b     one of                  key:nin=a,b    none of, or no such key
    key:any=a,b    a list with any of      key:all=a,b    a list with all of
    key:contains=value   a list with the value, or a text with it
    key:is_empty   missing, null, "" or []

A value that reads as a number or as ``true`` or ``false`` means that and its own text too: ``year=2020`` finds the
number 2020 and the string "2020". In JSON quotes it is a string only: ``year="2020"``. Everything else is the string
it is, so ``zip=07001`` never means the number 7001. A list is separated by commas, or is JSON: ``key:in=["a,b", 1]``.

A key may hold colons, ``dc:title=x``; a word behind its last colon that looks like an operator, as in ``title:like=x``,
is refused.

What this cannot say is said as a JSON tree: ``{"and": [{"key": "year", "op": ">=", "value": 2020}, …]}`` with ``and``,
``or`` and ``not``; there every value has the type it has in JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, NoReturn, get_args

from ragstore.errors import FilterError
from ragstore.model.filters import Condition, Filter, Group, Joiner, Operator, Scalar

_EXAMPLE: Final = 'write it as year>=2020, lang=en, tags:any=red,blue or \'{"or": [{"key": "lang", "value": "en"}]}\''

SPELLINGS: Final = "= != > >= < <= ~ ~* :in= :nin= :any= :all= :contains= :is_empty"

_OPERATORS: Final[Mapping[str, Operator]] = {operator: operator for operator in get_args(Operator)}
_JOINERS: Final[Mapping[str, Joiner]] = {joiner: joiner for joiner in get_args(Joiner)}
_SYMBOLS: Final[Mapping[str, Operator]] = {
    "=": "==", "==": "==", "!=": "!=", ">": ">", ">=": ">=", "<": "<", "<=": "<=",
    "~": "text_match", "~*": "text_match_insensitive",
}  # fmt: skip

_MEANT: Final[Mapping[str, str]] = {
    "like": "~", "ilike": "~*", "match": "~", "matches": "~", "regex": "~", "regexp": "~", "search": "~",
    "startswith": "~", "endswith": "~", "substring": "~", "eq": "=", "equals": "=", "is": "=", "ne": "!=", "neq": "!=",
    "not": "!=", "gt": ">", "gte": ">=", "ge": ">=", "lt": "<", "lte": "<=", "le": "<=", "one_of": ":in",
    "not_in": ":nin", "has": ":contains", "includes": ":contains", "any_of": ":any", "all_of": ":all", "between": ">=",
    "exists": "!=", "empty": ":is_empty", "null": ":is_empty", "isnull": ":is_empty", "is_null": ":is_empty",
    "missing": ":is_empty",
}  # fmt: skip
"""Operator names of other programs, and the nearest operators here."""

_SYMBOL = re.compile(r"!=|>=|<=|==|~\*|[=<>~]")
_NAMED = re.compile(rf"(?P<key>.*):(?P<operator>{'|'.join(name for name in _OPERATORS if name.isidentifier())})", re.S)


def parse_filters(texts: Sequence[str]) -> Filter | None:
    """The filter that all texts together make; None if there are none.

    Raises:
        FilterError: a text has none of the forms above.
    """
    filters = [parse_filter(text) for text in texts]
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else Group("and", tuple(filters))


def parse_filter(text: str) -> Filter:
    """The filter that one text makes.

    Raises:
        FilterError: the text has none of the forms above.
    """
    if text.lstrip().startswith("{"):
        return _parse_tree(text)
    symbol = _SYMBOL.search(text)
    key = (text[: symbol.start()] if symbol else text).strip()
    named = _NAMED.fullmatch(key)
    if named and named["operator"] == "is_empty" and not symbol:
        return Condition(_checked_key(named["key"].strip(), text), "is_empty")
    if symbol is None:
        _fail(f"filter {text!r} has no operator")
    value = text[symbol.end() :].strip()
    if named and symbol[0] == "=":
        return _condition(_checked_key(named["key"].strip(), text), _OPERATORS[named["operator"]], value)
    _refuse_unknown_operator(key, symbol[0])
    return _condition(_checked_key(key, text), _SYMBOLS[symbol[0]], value)


def _refuse_unknown_operator(key: str, symbol: str) -> None:
    name, colon, word = key.rpartition(":")
    if not (colon and name and word.isidentifier()):
        return
    named = [operator for operator in _OPERATORS if operator.isidentifier()]
    if word in named:
        _fail(f"filter operator {word!r} on key {name!r} is followed by {symbol!r}", hint=f"write {name}:{word}=VALUE")
    near = get_close_matches(word.lower(), named, n=1, cutoff=0.75)
    meant = _MEANT.get(word.lower()) or (f":{near[0]}" if near else None)
    if meant is not None:
        has_equal = meant.startswith(":") and meant != ":is_empty"
        written = f"{name}{meant}=VALUE" if has_equal else f"{name}{meant}{'' if meant == ':is_empty' else 'VALUE'}"
        _fail(
            f"filter on key {name!r} has an unknown operator {word!r}",
            hint=f"did you mean {written}? operators are {SPELLINGS}; for "
            f'a key of that name write \'{{"key": {json.dumps(key)}, "value": …}}\'',
        )


def _checked_key(key: str, text: str) -> str:
    return key or _fail(f"filter {text!r} has no key")


def _condition(key: str, operator: Operator, value: str) -> Filter:
    if operator == "is_empty":
        _fail(f"filter operator 'is_empty' on key {key!r} takes no value")
    if operator in ("text_match", "text_match_insensitive"):
        quoted = _json_or_none(value)
        return Condition(key, operator, quoted if isinstance(quoted, str) else value)
    if operator in ("in", "nin", "any"):
        return Condition(key, operator, [reading for element in _elements(value) for reading in element])
    if operator == "all":
        return _joined(
            "and", [Condition(key, "any", element) for element in _elements(value)], Condition(key, "all", [])
        )
    conditions = [Condition(key, operator, reading) for reading in _readings(key, operator, value)]
    return _joined("and" if operator == "!=" else "or", conditions, conditions[0])


def _joined(joiner: Joiner, conditions: list[Condition], single: Condition) -> Filter:
    if not conditions:
        return single
    return conditions[0] if len(conditions) == 1 else Group(joiner, tuple(conditions))


def _readings(key: str, operator: Operator, value: str) -> list[Scalar]:
    """All values that a typed value can mean; the likeliest first."""
    parsed = _json_or_none(value)
    if isinstance(parsed, list | dict):
        _fail(
            f"filter operator {operator!r} on key {key!r} takes one value, not {value!r:.60}",
            hint=f"for one of several values write {key}:in={value:.60}, for this very text put it in JSON quotes",
        )
    if isinstance(parsed, str):
        return [parsed]
    if isinstance(parsed, bool) and operator in (">", ">=", "<", "<="):
        return [value]
    return [value] if parsed is None else [parsed, value]


def _elements(value: str) -> list[list[Scalar]]:
    """The readings of each element of a list; an element of a JSON list has one reading."""
    parsed = _json_or_none(value)
    if isinstance(parsed, list):
        return [[element] for element in parsed]
    return [_readings("", "==", element.strip()) for element in value.split(",")] if value else []


def _json_or_none(text: str) -> Any:
    """The value of a JSON text; None if it is not JSON. NaN and infinities are not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _parse_tree(text: str) -> Filter:
    try:
        return _tree(json.loads(text, parse_constant=_refuse_constant))
    except ValueError as error:
        raise FilterError(f"filter {text!r:.200} is not JSON: {error}", hint=_EXAMPLE) from error
    except RecursionError as error:
        raise FilterError("filter is nested too deep", hint="flatten its groups") from error


def _tree(tree: Any) -> Filter:
    if not isinstance(tree, dict):
        _fail(f"filter part {tree!r:.200} is not an object")
    if len(tree) == 1 and (joiner := _JOINERS.get(next(iter(tree)))):
        parts = tree[joiner]
        if not isinstance(parts, list):
            _fail(f"filter group {joiner!r} is not a list")
        return Group(joiner, tuple(_tree(part) for part in parts))
    if unknown := tree.keys() - {"key", "op", "value"}:
        _fail(f"filter part has unknown members {', '.join(sorted(unknown))}")
    operator = _OPERATORS.get(str(tree.get("op", "==")))
    if operator is None:
        word = str(tree["op"]).lower()
        near = _MEANT.get(word) or _SYMBOLS.get(word) or next(iter(get_close_matches(word, _OPERATORS, n=1)), "")
        did_you_mean = f"did you mean {_SYMBOLS.get(near, near.lstrip(':'))!r}? " if near else ""
        _fail(f"unknown filter operator {tree['op']!r:.60}", hint=f"{did_you_mean}use one of {' '.join(_OPERATORS)}")
    if not isinstance(tree.get("key"), str):
        _fail(f"filter part {tree!r:.200} has no key")
    if "value" not in tree and operator != "is_empty":
        _fail(f"filter operator {operator!r} on key {tree['key']!r} has no value")
    return Condition(tree["key"], operator, tree.get("value"))


def _fail(message: str, *, hint: str = _EXAMPLE) -> NoReturn:
    raise FilterError(message, hint=hint)
