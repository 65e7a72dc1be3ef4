"""Arrays as PostgreSQL writes them: parsed many times faster than ``ARRAY[...]``, which is an expression."""

from __future__ import annotations

from collections.abc import Iterable


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
