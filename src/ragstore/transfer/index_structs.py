"""Writer of the index structs that LlamaIndex kept with the nodes of an import or an adoption."""

from __future__ import annotations

from collections.abc import Sequence

from ragstore.errors import RagstoreError, Retry
from ragstore.model.report import LeftBehind, Noted
from ragstore.transfer.loader import ImportContext, Loader
from ragstore.transfer.persist_dir import FoundStruct


def put_structs(loader: Loader, into: ImportContext, structs: Sequence[FoundStruct], unreadable: Sequence[str]) -> None:
    """Store the index structs; a collection has one vector index, and the largest of several gives it its name.

    Args:
        unreadable: ids of structs that could not be read.
    """
    left, writer = loader.report.left_behind, into.structs(loader.collection)
    left.add(LeftBehind.INDEX_STRUCTS, (f"{i}: cannot be read" for i in unreadable))
    indexes = sorted((s for s in structs if s.is_vector_index), key=lambda s: -s.n_nodes)
    names = writer.vector_index_ids() or [s.struct.index_id for s in indexes[:1]]
    for found in [*indexes, *(s for s in structs if not s.is_vector_index)]:
        index_id = found.struct.index_id
        if found.is_vector_index and index_id not in names:
            loader.report.noted.add(
                Noted.INDEXES_SHARING_NODES, [f"{index_id}: {found.n_nodes:,} nodes, in {names[0]}"]
            )
            continue
        try:
            writer.put(found.struct)
        except RagstoreError as error:
            if error.retry is not Retry.NEVER:
                raise
            if found.is_vector_index:
                # The index covers the whole collection, and can always be loaded by the collection's name.
                name = f"{index_id}: is {loader.collection.name} here, because its {error.message}"
                loader.report.noted.add(Noted.INDEXES_RENAMED, [name])
            else:
                left.add(LeftBehind.INDEX_STRUCTS, [f"{index_id}: {error.message}"])
