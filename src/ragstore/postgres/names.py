"""Quoting of what varies in statements and is no parameter."""

from __future__ import annotations

from ragstore.model.collection import Collection


def quoted_table(collection: Collection) -> str:
    """Schema-qualified and quoted; safe because a collection's name was checked when it was made."""
    return f'ragstore."{collection.table}"'


def quoted_literal(text: str) -> str:
    """A string of ours as it stands in SQL."""
    return "'" + text.replace("'", "''") + "'"
