"""Readers of JSON and JSON lines: flattened to ``path: value`` lines, a record for each object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ragstore.errors import ParseError
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

_TEXT_KEYS = frozenset({"text", "content", "body", "page_content"})
_EMPTY_LINES = re.compile(r"[ \t]*\n\s*")


def read_json(data: bytes, choices: Choices) -> RawText:
    """One record for each element of an array, or each member of an object.

    Raises:
        ParseError: the file is not JSON; the message has line and column.
    """
    text, notes = decode(data, choices)
    try:
        value = _parse(text)
    except json.JSONDecodeError as error:
        # Several values one after the other: the file is JSON lines with another suffix.
        if error.msg == "Extra data" and "\n" in text.strip():
            return read_json_lines(data, choices)
        raise _invalid(error.msg, error.lineno, error.colno) from error
    match value:
        case list():
            records = [_record(element) for element in value]
        case dict():
            records = _members(value)
        case _:
            records = [_record(value)]
    return RawText([_joined(records)], "records", notes=notes)


def read_json_lines(data: bytes, choices: Choices) -> RawText:
    """One record for each line.

    Raises:
        ParseError: a line is not JSON; the message has its number.
    """
    text, notes = decode(data, choices)
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(_record(_parse(line)))
        except json.JSONDecodeError as error:
            raise _invalid(error.msg, number, error.colno) from error
    return RawText([_joined(records)], "records", notes=notes)


def _parse(text: str) -> Any:
    # Numbers stay as they are written: 1.10 does not become 1.1, and a long number is no error.
    return json.loads(text.removeprefix("\ufeff"), parse_int=str, parse_float=str)


def _invalid(reason: str, line: int, column: int) -> ParseError:
    return ParseError(
        f"is invalid JSON at line {line}, column {column}: {reason[:1].lower()}{reason[1:]}",
        hint="correct that line, e.g. with the help of jq",
        line=line,
        column=column,
    )


def _members(value: dict[str, Any]) -> list[str]:
    """Records of an object: one for all plain members, and one for each nested member."""
    plain = {key: member for key, member in value.items() if not isinstance(member, dict | list)}
    nested = [{key: member} for key, member in value.items() if isinstance(member, dict | list)]
    return [_record(plain), *(_record(member) for member in nested)]


def _record(value: Any) -> str:
    """Lines of one object; its main text comes last and without its key, because it is the most important."""
    if not isinstance(value, dict):
        return "\n".join(_lines("", value))
    texts = [key for key in value if key in _TEXT_KEYS and isinstance(value[key], str)]
    facts = {key: member for key, member in value.items() if key not in texts}
    return "\n".join([*_lines("", facts), *(_EMPTY_LINES.sub("\n", value[key].strip()) for key in texts)])


def _lines(path: str, value: Any) -> Iterator[str]:
    match value:
        case dict():
            for key, member in value.items():
                yield from _lines(f"{path}.{key}" if path else key, member)
        case list():
            for i, member in enumerate(value):
                yield from _lines(f"{path}[{i}]", member)
        case None | "":
            return
        case _:
            shown = str(value).lower() if isinstance(value, bool) else _EMPTY_LINES.sub("\n", str(value).strip())
            yield f"{path}: {shown}" if path else shown


def _joined(records: list[str]) -> str:
    return "\n\n".join(record for record in records if record.strip())
