"""``ragstore import``: copy a persist_dir of LlamaIndex into a collection."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, FilterKeyOption, JsonOption, QuietOption
from ragstore.cli.progress import shown_line
from ragstore.cli.transfers import ModelOption, in_words, tell_report


def import_(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    persist_dir: Annotated[str, typer.Argument(metavar="PERSIST_DIR", help="Folder, or fsspec URL such as s3://….")],
    collection: CollectionOption = None,
    model: ModelOption = None,
    filter_keys: FilterKeyOption = None,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Which of several vector stores of the folder.")
    ] = "default",
    _as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring a LlamaIndex persist_dir into a collection: nodes, vectors, hashes and index structs.

    Vectors are taken over, nothing is embedded. What is there already, and equal, is skipped: safe to interrupt and to
    repeat. A collection that does not exist is made for vectors of that length. Exit status 3: something could not
    come over, and is listed.

    --json: {"documents", "nodes", "embedded", "skipped", "seconds", "left_behind", "noted", "collection_made"};
    left_behind and noted are {kind: {"count", "examples"}}, collection_made is null or {"name", "model", "dim"}.
    """
    with invocation_of(ctx).store() as store, shown_line(in_words, quiet=quiet) as listener:
        report = store.import_(
            persist_dir,
            collection=collection,
            model=model,
            namespace=namespace,
            filter_keys=filter_keys or (),
            progress=listener,
        )
    tell_report(ctx, report, "imported")
