"""``ragstore compare``: ask another vector store and a collection the same questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, JsonOption, QuietOption
from ragstore.cli.output import counted, one_line, say, write, write_json
from ragstore.cli.transfers import MAX_SHOWN, FromOption

if TYPE_CHECKING:
    from ragstore.transfer.comparison import AskedVector


def compare(
    ctx: typer.Context,
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION…", help="Questions, in plain words.")
    ] = None,
    source: FromOption = None,
    collection: CollectionOption = None,
    questions_file: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help='Further questions, one a line: a text, or {"question": "…", "embedding": [0.1, …]}.',
        ),
    ] = None,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Ask a vector store of another system and a collection, and report how many of the 10 best hits both have.

    --from is an address as `ragstore adopt --help` lists them. The collection's model embeds the questions; for a
    collection whose vectors come from outside, the file of --questions gives their vectors.

    --json: {"top_k", "overlap": mean share of hits that both have, "equal": questions with the same hits, "questions":
    [{"question", "overlap", "same_order", "only_there", "only_here"}]}; only_there and only_here are node ids.
    """
    if source is None:
        raise typer.BadParameter("name the vector store with --from")
    asked = [*(questions or []), *(_read(questions_file) if questions_file else [])]
    if not asked:
        raise typer.BadParameter("there is no question: name one, or a file of them with --questions")
    with invocation_of(ctx).store() as store:
        report = store.compare(source, asked, collection=collection)
    if as_json:
        write_json(report.as_dict())
        return
    write(
        f"overlap at {report.top_k}: {report.overlap:.3f}; {report.n_equal:,} of "
        f"{counted(len(report.questions), 'question')} have the same hits"
    )
    differing = sorted((each for each in report.questions if each.overlap < 1), key=lambda each: each.overlap)
    for each in differing[:MAX_SHOWN]:
        say(f"  {each.overlap:.1f}  {one_line(each.question)}")


def _read(path: Path) -> list[str | AskedVector]:
    from ragstore.errors import UsageError
    from ragstore.transfer.comparison import AskedVector

    found: list[str | AskedVector] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            found.append(line.strip())
            continue
        try:
            held: dict[str, Any] = json.loads(line)
            vector = held.get("embedding")
            found.append(AskedVector(str(held["question"]), [float(each) for each in vector] if vector else None))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"line {number} of {path} is no question",
                hint='each line is a text, or {"question": "…", "embedding": [0.1, …]}',
            ) from error
    return found
