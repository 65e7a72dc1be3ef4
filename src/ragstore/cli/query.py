"""``ragstore query``: show the best hits for a text."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.hits import hit_lines, score_lines
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import (
    CollectionOption,
    ContextOption,
    FilterOption,
    JsonOption,
    MmrOption,
    ModeOption,
    QuietOption,
    TopKOption,
    not_blank,
)
from ragstore.cli.output import say, terminal_width, write, write_json


def query(  # noqa: PLR0913, PLR0917 - \b keeps lines apart; one argument for each option of the command line
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", callback=not_blank, help="What to look for, in plain words.")],
    collection: CollectionOption = None,
    top_k: TopKOption = None,
    filters: FilterOption = None,
    mode: ModeOption = "hybrid",
    mmr: MmrOption = None,
    context: ContextOption = 0,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Show the best hits for a text.

    Filters are KEY=VALUE, with one of these operators in place of =:

    \b
    =  ==  !=         equal; not equal, or no such key
    >  >=  <  <=      larger, smaller; of numbers as numbers, of texts by their letters
    ~  ~*             the value holds this text; the same, whatever the case
    :in=a,b  :nin=a,b      one of these; none of these, or no such key
    :any=a,b  :all=a,b     a list with any of these; with all of these
    :contains=VALUE   a list with this value, or a text with it
    :is_empty         missing, null, "" or []; takes no value

    A value that reads as a number, true or false means that and its own text too: year=2024 finds the number and the
    text. In JSON quotes it is a text only: zip="07001". A list may be JSON: tag:in=["a,b", 1]. Several filters must
    all hold; what they cannot say is said as a tree: '{"or": [{"key": "year", "op": ">=", "value": 2020}, {"not":
    [...]}]}', with and, or and not.

    What a score means depends on --mode and is printed first. vector: cosine similarity. keyword: rank by words, rare
    ones counting more. hybrid: w/(15 + place by meaning) + 1/(15 + place by words), where w is 0.5 for wordllama, 2 for
    other models, or RAGSTORE_DENSE_WEIGHT; it says the order, not how good a hit is, so cut at a number of hits (-k),
    never at a score.

    --json: {"hits": [{"score", "text", "document_id", "source", "node_id", "metadata", "start_char", "end_char",
    "page", "headings", "context"}], "score_kind": "cosine", "word_rank", "rank_fusion" or "mmr", "notes": [what may be
    wrong with the question, where there are no hits]}, best first. context is the text with its neighbours in the
    document, null without --context and for nodes whose place in the document is not known.
    """  # noqa: D301 - a backspace keeps lines apart
    from ragstore.query.filter_text import parse_filters

    condition = parse_filters(filters or [])
    with invocation_of(ctx).store() as store:
        hits = store.query(
            text, collection=collection, top_k=top_k, filters=condition, mode=mode, mmr_lambda=mmr, context=context
        )
    if as_json:
        document = {"hits": [hit.as_dict() for hit in hits]}
        write_json({**document, "score_kind": hits.score_kind, "notes": list(hits.notes)})
        return
    for note in hits.notes:
        say(note)
    for line in score_lines(hits.score_kind, terminal_width()) if hits else []:
        write(line)
    for line in hit_lines(hits, terminal_width()):
        write(line)
