"""Index index structs by their collection.

Why:  an index that is loaded without its id, and verify, ask for the structs of one collection, which the index on
      ``_id`` finds only by reading those of all.
Lock: writers of index structs wait while it is built, some milliseconds for thousands.
Safe: the program before it does not see it.
Undo: drop the index ``collection_1`` of ``index_store/data``.
"""

from typing import Any


def upgrade(database: Any) -> None:
    database["index_store/data"].create_index([("collection", 1), ("_id", 1)], name="collection_1")
