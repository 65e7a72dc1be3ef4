"""Quoting of names, literals and arrays that are parts of statements, or text forms of parameters."""

from __future__ import annotations

from collections.abc import Iterable

from ragstore.model.collection import Collection


def quoted_table(collection: Collection) -> str:
    """Schema-qualified and quoted; safe because a collection's name was checked when it was made."""
    return f'ragstore."{collection.table}"'


def quoted_literal(text: str) -> str:
    """A string of ragstore as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def array(values: Iterable[str | int | None]) -> str:
    """The text form of a one-dimensional array; the statement names its type, as in ``%(ids)s::text[]``."""
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
