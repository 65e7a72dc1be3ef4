"""``ragstore ask``: an answer with its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.hits import hit_lines, place
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import (
    CollectionOption,
    FilterOption,
    JsonOption,
    MmrOption,
    ModeOption,
    TopKOption,
    not_blank,
)
from ragstore.cli.output import plain, say, terminal_width, write, write_json

if TYPE_CHECKING:
    from ragstore.query.answer import Answer

NO_MODEL = "no language model is configured, so here are the hits; set RAGSTORE_LLM=openai:MODEL for an answer"


def ask(  # noqa: PLR0913, PLR0917 - one argument for each option of the command line
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", callback=not_blank, help="The question, in plain words.")],
    collection: CollectionOption = None,
    top_k: TopKOption = None,
    filters: FilterOption = None,
    mode: ModeOption = "hybrid",
    mmr: MmrOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question, with citations.

    Each statement carries the number of its source. Needs RAGSTORE_LLM; without it, shows what `ragstore query` shows.

    --json: {"answer": text or null, "citations": [{"number", "hit"}], "hits": [as in query], "unsupported": [numbers
    that the model cited and that stand for no hit; they are removed from the answer]}.
    """
    from ragstore.query.filter_text import parse_filters

    condition = parse_filters(filters or [])
    with invocation_of(ctx).store() as store:
        answer = store.ask(text, collection=collection, top_k=top_k, filters=condition, mode=mode, mmr_lambda=mmr)
    if as_json:
        write_json(
            {
                "answer": answer.text,
                "citations": [{"number": each.number, "hit": each.hit.as_dict()} for each in answer.citations],
                "hits": [hit.as_dict() for hit in answer.hits],
                "unsupported": list(answer.unsupported),
            }
        )
        return
    for note in notes(answer):
        say(note)
    for line in answer_lines(answer, terminal_width()):
        write(line)


def answer_lines(answer: Answer, width: int) -> list[str]:
    """The answer and the list of its sources; the hits where there is no answer."""
    if answer.text is None:
        return hit_lines(answer.hits, width)
    cited = sorted(answer.citations, key=lambda citation: citation.number)
    sources = [f"[{each.number}] {place(each.hit)}" for each in cited]
    return [*plain(answer.text).splitlines(), "", *(["sources", *sources] if sources else ["no source is cited"])]


def notes(answer: Answer) -> list[str]:
    """What a reader of the answer has to know about it."""
    found = []
    if answer.text is None and answer.hits:  # with hits, only a missing model leaves no answer
        found.append(NO_MODEL)
    if answer.unsupported:
        numbers = ", ".join(str(number) for number in answer.unsupported)
        found.append(f"the model also cited {numbers}, which is no source; what it said there has no support")
    return found
