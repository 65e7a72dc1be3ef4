"""``ragstore documents``: list the live documents of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, JsonOption, QuietOption
from ragstore.cli.output import breaking_width, bytes_in_words, one_line, write, write_json_list
from ragstore.model.notes import sentences

if TYPE_CHECKING:
    from ragstore.model.document import DocumentState


def documents(
    ctx: typer.Context,
    collection: CollectionOption = None,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """List the documents of a collection.

    Below a document stands what was noted when it was read: how it was decoded, what was left out.

    --json: {"documents": [{"document_id", "source", "revision", "nodes", "size", "published_at", "metadata", "notes":
    {name: count or word}}]}, one document a line, times in ISO 8601.
    """
    invocation = invocation_of(ctx)
    with invocation.store() as store:
        found = store.documents(collection)
        if as_json:
            write_json_list("documents", (document_as_dict(document) for document in found))
            return
        n_documents, width = 0, breaking_width()
        for n_documents, document in enumerate(found, start=1):
            if n_documents == 1:
                _write_fitted(document_line("nodes", "revision", "size", "published"), "document", width)
            _write_fitted(document_cells(document), one_line(document.document_id), width)
            if document.notes:
                write(f"    {one_line(', '.join(sentences(document.notes)))}")
        if not n_documents:
            invocation.note("no documents yet; add some with: ragstore ingest PATH")


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
        "notes": document.notes,
    }


def document_cells(document: DocumentState) -> str:
    """One line about a document, without its id."""
    published = document.published_at.isoformat(sep=" ", timespec="seconds") if document.published_at else "-"
    return document_line(f"{document.n_nodes}", f"{document.revision}", bytes_in_words(document.size), published)


def document_line(nodes: str, revision: str, size: str, published: str) -> str:
    """A line with columns of fixed width, because lines are printed while the list is still being read."""
    return f"{nodes:>7}  {revision:>8}  {size:>8}  {published:<25}"


def _write_fitted(line: str, document: str, width: int | None) -> None:
    """Print the line and the whole id; the id on a line of its own if a terminal would break the line."""
    joined = f"{line}  {document}"
    for each in [joined] if width is None or len(joined) <= width else [line.rstrip(), f"    {document}"]:
        write(each)
