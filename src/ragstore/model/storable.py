"""Conversion of metadata and text to values that both stores can hold without changing or refusing them.

===========================  =================================================
value in metadata            stored, in both stores
===========================  =================================================
str                          NUL removed, lone surrogates become U+FFFD
int                          as it is; beyond 64 bits refused
float                        as it is; NaN and infinity refused
datetime, date, time         ISO 8601 string
Decimal, numpy scalar        number
set, frozenset, tuple        list (sets sorted by their text)
Enum                         its value
UUID, Path                   string
dict keys                    strings; keys that become equal are refused
bytes and anything else      refused
nesting deeper than 60       refused
===========================  =================================================

Refused means InvalidNodeError before anything is written to either store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import orjson

from ragstore.errors import InvalidNodeError

MAX_DEPTH = 60
MAX_METADATA_BYTES = 1_000_000
_DEPTH_OF_METADATA = 5  # relationships → list → node → metadata
_INT64 = range(-(2**63), 2**63)
_MANY_DIGITS = re.compile("[0-9]{19}")

_Path = tuple[Any, str | int] | None
"""Path of a value: the path of its container, and its key or position there."""


def storable_text(text: str) -> str:
    """Text that PostgreSQL and BSON both accept: without NUL and lone surrogates."""
    if "\0" in text:
        text = text.replace("\0", "")
    # isascii is O(1), and most text is ASCII.
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def stored_json(text: str | bytes) -> Any:
    """Parse the JSON in which PostgreSQL sends stored values.

    PostgreSQL writes all digits of a large float, which then looks like an integer that is too large to be storable;
    such integers are converted back to floats.
    """
    value = orjson.loads(text)
    return _with_floats(value) if _MANY_DIGITS.search(text if isinstance(text, str) else text.decode()) else value


def _with_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_floats(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_floats(each) for each in value]
    return float(value) if isinstance(value, int) and value not in _INT64 else value


def storable_metadata(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """Metadata of JSON types only, as the table above says.

    Raises:
        InvalidNodeError: a value that no rule covers; names the key.
    """
    result = _storable_dict(metadata, path=None, depth=0)
    size = _text_size(result)
    if size > MAX_METADATA_BYTES:
        raise InvalidNodeError(
            f"metadata of {size:,} bytes is more than {MAX_METADATA_BYTES:,}",
            hint="keep long texts in the document, not in its metadata",
        )
    return result


def storable_content(content: Mapping[Any, Any]) -> dict[str, Any]:
    """A whole node by the same rules; its metadata is a few levels deeper than in ``storable_metadata``.

    Raises:
        InvalidNodeError: a value that no rule covers; names the key.
    """
    return _storable_dict(content, path=None, depth=-_DEPTH_OF_METADATA)


def _storable(value: Any, path: _Path, depth: int) -> Any:
    """Convert one value; called for each value of every node, so common types are checked first, by exact type."""
    if depth > MAX_DEPTH:
        raise _refused(path, f"is nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if kind is str:
        return storable_text(value)
    if value is None or kind is bool:
        return value
    if kind is dict:
        return _storable_dict(value, path, depth + 1)
    if kind is list:
        return [_storable(v, (path, i), depth + 1) for i, v in enumerate(value)]
    if kind is int:
        return _storable_int(value, path)
    return _storable_other(value, path, depth)


def _storable_other(value: Any, path: _Path, depth: int) -> Any:  # noqa: C901, PLR0911 - one rule per type
    match value:
        case Enum():
            return _storable(value.value, path, depth)
        case str():
            return storable_text(str(value))
        case int():
            return _storable_int(value, path)
        case float():
            return _storable_float(value, path)
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return _storable_decimal(value, path)
        case np.generic():
            return _storable_scalar(value, path, depth)
        case UUID() | PurePath():
            return storable_text(str(value))
        case Mapping():
            return _storable_dict(value, path, depth + 1)
        case set() | frozenset():
            return sorted((_storable(v, path, depth + 1) for v in value), key=repr)
        case list() | tuple():
            return [_storable(v, (path, i), depth + 1) for i, v in enumerate(value)]
    raise _refused(path, f"is a {type(value).__name__}, which neither JSON nor BSON can hold")


def _storable_dict(mapping: Mapping[Any, Any], path: _Path, depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        name = key if _is_plain(key) else storable_text(key if isinstance(key, str) else str(key))
        if name in result:
            raise _refused((path, name), "appears twice once its keys are strings")
        stays = depth <= MAX_DEPTH and _is_plain(value)
        result[name] = value if stays else _storable(value, (path, name), depth)
    return result


def _is_plain(value: Any) -> bool:
    """Whether it is text that needs no change, as most values are; isascii is O(1)."""
    return type(value) is str and value.isascii() and "\0" not in value


def _storable_int(value: int, path: _Path) -> int:
    if value not in _INT64:
        raise _refused(path, "is an integer of more than 64 bits")
    return int(value)


def _storable_float(value: float, path: _Path) -> float:
    if not isfinite(value):
        raise _refused(path, f"is {value}, which JSON cannot hold")
    return float(value)


def _storable_decimal(value: Decimal, path: _Path) -> int | float:
    if not value.is_finite():
        raise _refused(path, f"is {value}, which JSON cannot hold")
    if value != value.to_integral_value():
        return _storable_float(float(value), path)
    # Checked before the conversion: the integer of a large exponent would fill the memory.
    if not _INT64.start <= value < _INT64.stop:
        raise _refused(path, "is an integer of more than 64 bits")
    return _storable_int(int(value), path)


def _storable_scalar(value: np.generic, path: _Path, depth: int) -> Any:
    if isinstance(value, np.datetime64) and not np.isnat(value):
        return str(value)
    plain = value.item()
    # Some have no counterpart in Python, and a time span in nanoseconds would become a plain number.
    if isinstance(plain, np.generic) or isinstance(value, (np.datetime64, np.timedelta64)):
        raise _refused(path, f"is a {type(value).__name__}, which neither JSON nor BSON can hold")
    return _storable(plain, path, depth)


def _text_size(value: Any) -> int:
    match value:
        case str():
            return len(value) if value.isascii() else len(value.encode())
        case dict():
            return sum([_text_size(k) + _text_size(v) for k, v in value.items()])
        case list():
            return sum([_text_size(v) for v in value])
    return 8


def _refused(path: _Path, why: str) -> InvalidNodeError:
    shown = _shown(path)[:200]
    return InvalidNodeError(
        f"metadata value {shown!r} {why}", hint="change it to text, a number, a list or an object", key=shown
    )


def _shown(path: _Path) -> str:
    if path is None:
        return ""
    inside, key = _shown(path[0]), path[1]
    if isinstance(key, int):
        return f"{inside}[{key}]"
    return f"{inside}.{key}" if inside else key
