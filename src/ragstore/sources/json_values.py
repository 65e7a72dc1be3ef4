"""Readers of JSON and JSON lines: flattened to ``path: value`` lines, a record for each object.

A record does not say at which position of its array it stands, so that an element that comes first changes no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from json import JSONDecodeError
from typing import Any

from ragstore.errors import ParseError
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText, block, labelled

_TEXT_KEYS = frozenset({"text", "content", "body", "page_content"})
_MAX_LIST_CHARS = 200

_GAP = re.compile(r"[\s,\x1e\ufeff]*")
_LENIENT = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*+(?:"|\Z)|'(?:[^'\\]|\\.)*+(?:'|\Z))"""
    r"|(?P<comment>//[^\n]*|\#[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z))"
    r"|(?P<name>[A-Za-z_$][\w$]*+)(?=\s*:)"
    r"|(?P<word>\b(?:None|True|False|undefined)\b)"
    r"|(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))",
    re.DOTALL,
)
_TRAILING_COMMA = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|(?P<comma>,)(?=\s*[\]}])', re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"None": "null", "undefined": "null", "True": "true", "False": "false"}
_ESCAPE = re.compile(r"\\(?:x(?P<hex>[0-9a-fA-F]{2})|(?P<char>.))|(?P<quote>\")", re.DOTALL)
_ESCAPES = {**{char: f"\\{char}" for char in '"\\/bfnrtu'}, "v": "\\u000b", "0": "\\u0000", "\n": "", "\r": ""}

Value = tuple[int, Any]
"""The number of the line where a value begins, and the value."""


class _Repeated(list[Any]):
    """The values of a key that an object has several times."""


def read_json(data: bytes, choices: Choices) -> RawText:
    """One record for each element of an array, each element of arrays inside, and the plain members of an object.

    Values one after the other are read as JSON lines; comments, trailing commas and what else JSON5 allows is noted
    as ``json_mended``.

    Raises:
        ParseError: the file is not JSON; the message has line and column.
    """
    text, notes = decode(data, choices)
    try:
        values = [(1, _parse(text.removeprefix("\ufeff")))]
    except JSONDecodeError as error:
        values = _lenient_values(text, error, notes)
    if len(values) > 1:
        return _lines_as_records(values, notes)
    return RawText([record for record in _records("", values[0][1]) if record], "records", notes=notes)


def read_json_lines(data: bytes, choices: Choices) -> RawText:
    """One record for each line; a line that is no JSON, such as one that was cut, counts as ``lines_unread``.

    Raises:
        ParseError: no line is JSON; the message has the number of the first one.
    """
    text, notes = decode(data, choices)
    values, unread = _line_by_line(text)
    if unread:
        values = _lenient_values(text, unread[0], notes)
    return _lines_as_records(values, notes)


def _lenient_values(text: str, error: JSONDecodeError, notes: dict[str, int | str]) -> list[Value]:
    """Values of a text that is no single JSON value, and notes of what that took."""
    try:
        if values := list(_one_by_one(text)):
            return values
    except JSONDecodeError as second:
        # Of a file that has several values, the place of the first one that cannot be read says more.
        error = second if error.msg == "Extra data" else error
    mended, n_mended = _mended(text)
    try:
        values = list(_one_by_one(mended, strict=False))
    except JSONDecodeError:
        pass
    else:
        if values:
            notes["json_mended"] = max(1, n_mended)
            return values
    values, n_unread, n_mended = _lenient_lines(text)
    if values and isinstance(values[0][1], dict | list):
        notes |= {"lines_unread": n_unread} if n_unread else {}
        notes |= {"json_mended": n_mended} if n_mended else {}
        return values
    raise ParseError(
        f"is invalid JSON at line {error.lineno}, column {error.colno}: {error.msg[:1].lower()}{error.msg[1:]}",
        hint="correct that line, e.g. with the help of jq",
        line=error.lineno,
        column=error.colno,
    ) from error


def _lenient_lines(text: str) -> tuple[list[Value], int, int]:
    """The values of the lines that can be read, and how many cannot, and how many were mended."""
    values, unread = _line_by_line(text)
    n_mended = n_unread = 0
    for error in unread:
        line, _ = _mended(error.doc)
        try:
            values.append((error.lineno, _LOOSE_DECODER.decode(line)))
            n_mended += 1
        except JSONDecodeError:
            n_unread += 1
    return sorted(values, key=lambda value: value[0]), n_unread, n_mended


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    several: dict[str, Any] = {}
    for key, member in pairs:
        several.setdefault(key, _Repeated()).append(member)
    return {key: members[0] if len(members) == 1 else members for key, members in several.items()}


def _decoder(*, strict: bool = True) -> json.JSONDecoder:
    # Numbers stay as they are written: 1.10 does not become 1.1, NaN not nan, and a long number is no error.
    return json.JSONDecoder(
        object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=str, strict=strict
    )


_DECODER, _LOOSE_DECODER = _decoder(), _decoder(strict=False)


def _parse(text: str) -> Any:
    return _DECODER.decode(text)


def _one_by_one(text: str, *, strict: bool = True) -> Iterator[Value]:
    decoder = _DECODER if strict else _LOOSE_DECODER
    at, line, counted = 0, 1, 0
    while (gap := _GAP.match(text, at)) and gap.end() < len(text):
        at = gap.end()
        line, counted = line + text.count("\n", counted, at), at
        value, at = decoder.raw_decode(text, at)
        yield line, value


def _line_by_line(text: str) -> tuple[list[Value], list[JSONDecodeError]]:
    """The values of the lines, and for each other line the error, with that line as its text."""
    values: list[Value] = []
    unread: list[JSONDecodeError] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append((number, _parse(line)))
        except JSONDecodeError as error:
            error.lineno = number
            unread.append(error)
    return values, unread


def _mended(text: str) -> tuple[str, int]:
    """JSON from JSON5 or from Python's notation, as far as they are common, and how many places were mended."""
    n_mended = 0

    def plain(found: re.Match[str]) -> str:
        nonlocal n_mended
        old, kind = found.group(), found.lastgroup
        if kind == "string":
            new = f'"{_ESCAPE.sub(_escaped, old[1:-1])}"' if len(old) > 1 else old
        elif kind == "comment":
            new = "\n" * old.count("\n") or " "
        elif kind == "word":
            new = _WORDS[old]
        else:
            new = old if kind == "number" and _NUMBER.fullmatch(old) else f'"{old}"'
        n_mended += new != old
        return new

    def without_comma(found: re.Match[str]) -> str:
        nonlocal n_mended
        n_mended += bool(found["comma"])
        return "" if found["comma"] else found.group()

    return _TRAILING_COMMA.sub(without_comma, _LENIENT.sub(plain, text)), n_mended


def _escaped(found: re.Match[str]) -> str:
    if found["quote"]:
        return '\\"'
    if found["hex"]:
        return f"\\u00{found['hex']}"
    return _ESCAPES.get(found["char"], found["char"])


def _lines_as_records(values: Sequence[Value], notes: dict[str, int | str]) -> RawText:
    records = [(record, {"line": line}) for line, value in values if (record := _record("", value))]
    return RawText([record for record, _ in records], "records", notes=notes, places=[place for _, place in records])


def _records(path: str, value: Any) -> Iterator[str]:
    """Records of a value: one for all plain members of an object, and one for each element of arrays inside."""
    match value:
        case list():
            for element in value:
                yield _record(path, element)
        case dict():
            plain = {key: member for key, member in value.items() if not _is_container(member)}
            yield _record(path, plain)
            for key, member in value.items():
                if key in plain:
                    continue
                inner = f"{path}.{key}" if path else key
                if _is_collection(member):
                    yield from _records(inner, member)
                else:
                    yield _record(inner, member)
        case _:
            yield _record(path, value)


def _is_container(value: Any) -> bool:
    if isinstance(value, list):
        return _listed(value) is None
    return isinstance(value, dict)


def _is_collection(value: Any) -> bool:
    """Whether a value holds many things, each of which is a record: a list, or names with objects."""
    if isinstance(value, list):
        return not isinstance(value, _Repeated)
    if not isinstance(value, dict):
        return False
    return (len(value) > 1 and all(map(_is_container, value.values()))) or any(map(_is_collection, value.values()))


def _record(path: str, value: Any) -> str:
    """Lines of one object; its main text comes last and without its key, because it is the most important."""
    texts: list[str] = []
    if isinstance(value, dict):
        texts = [key for key in value if key in _TEXT_KEYS and isinstance(value[key], str)]
        facts = {key: member for key, member in value.items() if key not in texts}
        lines = [*_lines(path, facts), *(block(value[key]) for key in texts)]
    else:
        lines = list(_lines(path, value))
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return "\n".join(kept).rstrip()


def _lines(path: str, value: Any) -> Iterator[str]:
    """Lines of a value; each object of a list is a group with an empty line above it."""
    match value:
        case _Repeated():
            for member in value:
                yield from _lines(path, member)
        case dict():
            for key, member in value.items():
                yield from _lines(f"{path}.{key}" if path else key, member)
        case list():
            listed = _listed(value)
            if listed is not None:
                yield from _lines(path, listed)
                return
            for member in value:
                if isinstance(member, dict):
                    yield ""
                yield from _lines(path, member)
        case None | "":
            return
        case _:
            shown = _shown(value)
            yield labelled(path, shown) if path else block(shown)


def _listed(values: list[Any]) -> str | None:
    """A list of a few short plain values in one line, None for any other."""
    if isinstance(values, _Repeated) or any(isinstance(value, dict | list) for value in values):
        return None
    shown = [_shown(value) for value in values if value not in (None, "")]
    line = ", ".join(shown)
    is_short = len(line) <= _MAX_LIST_CHARS and not any("," in value or "\n" in value for value in shown)
    return line if is_short else None


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
