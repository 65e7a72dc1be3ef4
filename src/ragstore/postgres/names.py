"""Quoting of the one identifier that varies: a collection's vector table."""

from __future__ import annotations

from ragstore.model.collection import Collection


def quoted_table(collection: Collection) -> str:
    """Schema-qualified and quoted; safe because a collection's name was checked when it was made."""
    return f'ragstore."{collection.table}"'
