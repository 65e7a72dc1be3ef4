"""``ragstore query``: the best hits for a text."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.hits import hit_lines
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import (
    CollectionOption,
    ContextOption,
    FilterOption,
    JsonOption,
    MmrOption,
    ModeOption,
    TopKOption,
    not_blank,
)
from ragstore.cli.output import terminal_width, write, write_json


def query(  # noqa: PLR0913, PLR0917 - one argument for each option of the command line
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", callback=not_blank, help="What to look for, in plain words.")],
    collection: CollectionOption = None,
    top_k: TopKOption = None,
    filters: FilterOption = None,
    mode: ModeOption = "hybrid",
    mmr: MmrOption = None,
    context: ContextOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show the best hits for a text.

    --json: {"hits": [{"score", "text", "document_id", "source", "node_id", "metadata", "start_char", "end_char",
    "page", "headings", "context"}]}, best first. context is the text with its neighbours in the document, null without
    --context and for nodes whose place in the document is not known.
    """
    from ragstore.query.filter_text import parse_filters

    condition = parse_filters(filters or [])
    with invocation_of(ctx).store() as store:
        hits = store.query(
            text, collection=collection, top_k=top_k, filters=condition, mode=mode, mmr_lambda=mmr, context=context
        )
    if as_json:
        write_json({"hits": [hit.as_dict() for hit in hits]})
        return
    for line in hit_lines(hits, terminal_width()):
        write(line)
