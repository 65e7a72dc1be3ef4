"""``ragstore ask``: answer a question, with sources."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.hits import hit_lines, place_lines, score_lines
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import (
    CollectionOption,
    FilterOption,
    JsonOption,
    MmrOption,
    ModeOption,
    QuietOption,
    TopKOption,
    not_blank,
)
from ragstore.cli.output import flush, plain, say, terminal_width, write, write_json

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
    no_stream: Annotated[
        bool,
        typer.Option("--no-stream", help="Wait for the whole answer; elsewhere than on a terminal it always does."),
    ] = False,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Answer a question, with citations.

    Each statement carries the number of its source, or [no source] where the model named one that it was not given.
    Needs RAGSTORE_LLM; without it, shows what `ragstore query` shows. Filters are those of `ragstore query --help`.

    --json: {"answer": text or null, "citations": [{"number", "hit"}], "hits", "score_kind", "notes": as in query,
    "unsupported": [numbers that the model cited and that stand for no hit; [no source] is in their place]}.
    """
    from ragstore.query.filter_text import parse_filters

    condition = parse_filters(filters or [])
    printer = _AnswerPrinter() if sys.stdout.isatty() and not (no_stream or as_json) else None
    with invocation_of(ctx).store() as store:
        answer = store.ask(
            text, collection=collection, top_k=top_k, filters=condition, mode=mode, mmr_lambda=mmr, stream=printer
        )
    if as_json:
        write_json(
            {
                "answer": answer.text,
                "citations": [{"number": each.number, "hit": each.hit.as_dict()} for each in answer.citations],
                "hits": [hit.as_dict() for hit in answer.hits],
                "unsupported": list(answer.unsupported),
                "score_kind": answer.score_kind,
                "notes": list(answer.notes),
            }
        )
        return
    if printer is not None and answer.text is not None:
        write()
    for note in (*answer.notes, *notes(answer)):
        say(note)
    for line in answer_lines(answer, terminal_width(), text_shown=printer is not None):
        write(line)


class _AnswerPrinter:
    """Prints an answer as it comes."""

    def __call__(self, piece: str) -> None:
        write(plain(piece), end="")
        flush()


def answer_lines(answer: Answer, width: int, *, text_shown: bool = False) -> list[str]:
    """The answer and the list of its sources; the hits if there is no answer.

    Args:
        text_shown: the text of the answer was printed already; only the sources follow.
    """
    if answer.text is None:
        score = score_lines(answer.score_kind, width) if answer.hits and answer.score_kind else []
        return [*score, *hit_lines(answer.hits, width)]
    cited = sorted(answer.citations, key=lambda citation: citation.number)
    sources = [line for each in cited for line in place_lines(f"[{each.number}] ", each.hit, width)]
    text = [] if text_shown else plain(answer.text).splitlines()
    return [*text, "", *(["sources", *sources] if sources else ["no source is cited"])]


def notes(answer: Answer) -> list[str]:
    """Remarks about the answer for its reader."""
    found = []
    if answer.text is None and answer.hits:  # with hits, only a missing model leaves no answer
        found.append(NO_MODEL)
    if answer.unsupported:
        numbers = ", ".join(str(number) for number in answer.unsupported)
        found.append(
            f"the model also cited {numbers}, which is no source: what stands before [no source] has no support"
        )
    return found
