"""``ragstore show``: print the stored text of a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import WHERE_DOCUMENTS_ARE, CollectionOption, JsonOption, QuietOption, spellings
from ragstore.cli.output import plain, write, write_json_list
from ragstore.errors import DocumentNotFoundError

if TYPE_CHECKING:
    from ragstore.app import Ragstore
    from ragstore.query.show import DocumentText


def show(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    document: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Its id, or a path.")],
    collection: CollectionOption = None,
    start_char: Annotated[
        int, typer.Option("--from", metavar="N", min=0, help="Offset of the first character, as hits name it.")
    ] = 0,
    end_char: Annotated[
        int | None, typer.Option("--to", metavar="N", min=0, help="Offset after the last character.")
    ] = None,
    revision: Annotated[
        str, typer.Option("--revision", metavar="N|live", help="Fail if another revision is live; others are not kept.")
    ] = "live",
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Show the text of a document.

    It is put together from the stored chunks, without reading the source again. The positions of hits are offsets in
    it. White space between two chunks is not stored: line ends stand for it.

    --json: {"document_id", "source", "revision", "passages": [{"text", "start_char", "end_char", "headings",
    "place"}]}, one passage a line; each begins where the one before ends. "place" says page, sheet, row, slide, cell,
    line or part where they are known.
    """
    if revision != "live" and not revision.isdecimal():
        raise typer.BadParameter("--revision is live or a number")
    expected = None if revision == "live" else int(revision)
    with invocation_of(ctx).store() as store:
        text = _found(store, document, collection, expected)
        passages = text.passages(start_char, end_char)
        if as_json:
            facts = {"document_id": text.document_id, "source": text.source, "revision": text.revision}
            write_json_list("passages", (passage.as_dict() for passage in passages), facts)
            return
        for passage in passages:
            write(plain(passage.text), end="")
        write()


def _found(store: Ragstore, document: str, collection: str | None, revision: int | None) -> DocumentText:
    error = DocumentNotFoundError(f"no document {document}", hint=WHERE_DOCUMENTS_ARE, document_id=document)
    for spelling in spellings(document):
        try:
            return store.show(spelling, collection, revision=revision)
        except DocumentNotFoundError as not_found:
            if "revision" in not_found.message:
                raise
    raise error
