"""Front matter of Markdown: YAML between ``---``, TOML between ``+++`` or a JSON object, as metadata."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import date, datetime, time
from math import isfinite
from typing import Any

import yaml

from ragstore.model.chunk import PLACE_KEYS
from ragstore.sources.raw import clean_text

MAX_FRONT_MATTER_CHARS = 65_536
_MAX_VALUES = 500
_MAX_DEPTH = 20
_MAX_VALUE_CHARS = 2_000
_INT64 = range(-(2**63), 2**63)

_YAML = re.compile(r"\A---[ \t]*\r?\n(?:(.*?)\r?\n)?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_TOML = re.compile(r"\A\+\+\+[ \t]*\r?\n(?:(.*?)\r?\n)?\+\+\+[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """The types of YAML 1.2: ``no``, ``012`` and ``12:30`` are text, not false, 10 and 750."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - the library's own form


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("timestamp", r"\d{4}-\d\d-\d\d(?:[Tt ]+\d\d:\d\d:\d\d(?:\.\d*)?[ \t]*(?:Z|[-+]\d\d?(?::?\d\d)?)?)?", "0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), ["" if each == "\0" else each for each in _first]
    )


class _TooMuchError(ValueError):
    pass


def without_front_matter(text: str, notes: dict[str, int | str]) -> tuple[dict[str, Any], str]:
    """Facts of a text's front matter, and the text after it.

    Lists, numbers and booleans stay what they are, dates become ISO 8601, and a map ``a`` with a key ``b`` becomes
    ``a.b``. A block that cannot be read stays in the text, which is noted.
    """
    try:
        found = _parsed(text)
        facts = dict(_flattened("", found[0], [0])) if found else {}
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, TypeError, KeyError, RecursionError):
        notes["front_matter_unread"] = 1
        return {}, text
    return (facts, text[found[1] :]) if found else ({}, text)


def _parsed(text: str) -> tuple[dict[Any, Any], int] | None:
    """The map at a text's beginning, and where the text after it begins."""
    head = text[:MAX_FRONT_MATTER_CHARS]
    value: Any = None
    if block := _YAML.match(head):
        value = yaml.load(block[1] or "", _Loader)  # noqa: S506 - a SafeLoader
        # Two rules with nothing between them are front matter without facts.
        value = {} if value is None else value
        end = block.end()
    elif block := _TOML.match(head):
        value, end = tomllib.loads((block[1] or "").replace("\r\n", "\n")), block.end()
    elif head.startswith(("{\n", "{\r\n")):
        try:
            value, end = json.JSONDecoder().raw_decode(head)
        except ValueError:
            return None
        end += len(head[end:]) - len(head[end:].lstrip("\r\n"))
    # Text between two rules is no map.
    return (value, end) if isinstance(value, dict) else None


def _flattened(prefix: str, mapping: dict[Any, Any], count: list[int], depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        name = clean_text(f"{prefix}{_text(key)}")[0].strip()
        if isinstance(value, dict) and value:
            yield from _flattened(f"{name}.", value, count, _deeper(depth))
            continue
        plain = _plain(value, count, depth)
        if name and plain not in (None, "", {}):
            # These names say where in its document a node begins.
            yield (f"front_matter.{name}" if name in (*PLACE_KEYS, "headings") else name), plain


def _plain(value: Any, count: list[int], depth: int) -> Any:
    # Also counts what an alias repeats, so that a few lines cannot become millions of values.
    count[0] += 1
    if count[0] > _MAX_VALUES:
        raise _TooMuchError
    if isinstance(value, dict):
        return {_text(key): _plain(each, count, _deeper(depth)) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        each_one = sorted(value, key=repr) if isinstance(value, set) else value
        return [each for each in (_plain(item, count, _deeper(depth)) for item in each_one) if each is not None]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value in _INT64 else str(value)[:_MAX_VALUE_CHARS]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    return _text(value)


def _deeper(depth: int) -> int:
    if depth >= _MAX_DEPTH:
        raise _TooMuchError
    return depth + 1


def _text(value: Any) -> str:
    text = value.isoformat() if isinstance(value, date | datetime | time) else str(value)
    return clean_text(text[:_MAX_VALUE_CHARS])[0].strip()
