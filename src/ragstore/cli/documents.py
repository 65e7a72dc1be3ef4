"""``ragstore documents``: what is live in a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, JsonOption
from ragstore.cli.output import bytes_in_words, one_line, say, write, write_json_list

if TYPE_CHECKING:
    from ragstore.model.document import DocumentState


def documents(ctx: typer.Context, collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """List the documents of a collection.

    --json: {"documents": [{"document_id", "source", "revision", "nodes", "size", "published_at", "metadata"}]}, one
    document a line, times in ISO 8601.
    """
    with invocation_of(ctx).store() as store:
        found = store.documents(collection)
        if as_json:
            write_json_list("documents", (document_as_dict(document) for document in found))
            return
        n_documents = 0
        for n_documents, document in enumerate(found, start=1):
            if n_documents == 1:
                write(document_line("nodes", "revision", "size", "published", "document"))
            write(document_cells(document))
        if not n_documents:
            say("no documents yet; add some with: ragstore ingest PATH")


def document_as_dict(document: DocumentState) -> dict[str, Any]:
    """One entry of ``documents --json``."""
    return {
        "document_id": document.document_id,
        "source": document.source_uri,
        "revision": document.revision,
        "nodes": document.n_nodes,
        "size": document.size,
        "published_at": document.published_at.isoformat() if document.published_at else None,
        "metadata": document.metadata,
    }


def document_cells(document: DocumentState) -> str:
    """One document for people."""
    published = document.published_at.isoformat(sep=" ", timespec="seconds") if document.published_at else "-"
    return document_line(
        f"{document.n_nodes}", f"{document.revision}", bytes_in_words(document.size), published, document.document_id
    )


def document_line(nodes: str, revision: str, size: str, published: str, document: str) -> str:
    """Fixed widths, the longest column last: lines are written while the list is still being read."""
    return f"{nodes:>7}  {revision:>8}  {size:>8}  {published:<25}  {one_line(document)}"
