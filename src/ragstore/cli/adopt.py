"""``ragstore adopt``: copy a plain PGVectorStore and MongoDocumentStore into a collection."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, FilterKeyOption, JsonOption, QuietOption
from ragstore.cli.progress import shown_line
from ragstore.cli.transfers import ModelOption, in_words, tell_report


def adopt(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    table: Annotated[
        str, typer.Option("--postgres-table", metavar="TABLE", help="Table of a PGVectorStore, with its data_.")
    ],
    collection: CollectionOption = None,
    schema: Annotated[str, typer.Option("--schema", metavar="NAME", help="Schema of the table.")] = "public",
    postgres_url: Annotated[
        str | None,
        typer.Option("--postgres-url", metavar="URL", help="Server of the table; ragstore's own where none is named."),
    ] = None,
    mongo_database: Annotated[
        str | None,
        typer.Option("--mongo-database", metavar="NAME", help="Database of a MongoDocumentStore, where there is one."),
    ] = None,
    mongo_url: Annotated[
        str | None,
        typer.Option("--mongo-url", metavar="URL", help="Its server; ragstore's own where none is named."),
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Namespace of the document store.")
    ] = "docstore",
    model: ModelOption = None,
    filter_keys: FilterKeyOption = None,
    _as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring a plain PGVectorStore table, and a plain MongoDocumentStore beside it, into a collection.

    They are only read. Vectors are taken over, nothing is embedded; a node that stands in several rows is taken once.
    What is there already, and equal, is skipped: safe to interrupt and to repeat. Exit status 3: something could not
    come over, and is listed.

    --json: {"documents", "nodes", "embedded", "skipped", "seconds", "left_behind", "noted", "collection_made"};
    left_behind and noted are {kind: {"count", "examples"}}, collection_made is null or {"name", "model", "dim"}.
    """
    from ragstore.app.transfer import PlainStack

    stack = PlainStack(table, schema, postgres_url, mongo_url, mongo_database, namespace)
    with invocation_of(ctx).store() as store, shown_line(in_words, quiet=quiet) as listener:
        report = store.adopt(
            stack, collection=collection, model=model, filter_keys=filter_keys or (), progress=listener
        )
    tell_report(ctx, report, "adopted")
