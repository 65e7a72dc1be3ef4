"""``ragstore export``: write a collection as a persist_dir of plain LlamaIndex."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, JsonOption, QuietOption
from ragstore.cli.progress import shown_line
from ragstore.cli.transfers import in_words, tell_report


def export(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="DIR", help="Folder, or fsspec URL such as s3://….")],
    collection: CollectionOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the persist_dir that is there.")] = False,
    _as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a collection as a persist_dir that plain LlamaIndex loads and answers equally from.

    All of one moment, while writers go on. A folder that is not empty is refused; an export that is killed leaves none
    that loads.

    --json: {"documents", "nodes", "embedded", "skipped", "seconds", "left_behind", "noted", "collection_made": null}.
    """
    with invocation_of(ctx).store() as store, shown_line(in_words, quiet=quiet) as listener:
        report = store.export(target, collection=collection, overwrite=overwrite, progress=listener)
    tell_report(ctx, report, "exported")
