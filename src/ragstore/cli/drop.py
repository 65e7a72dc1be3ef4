"""``ragstore drop``: remove a collection from both stores."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import counted, one_line, say, write, write_json
from ragstore.errors import CollectionNotFoundError, UsageError

if TYPE_CHECKING:
    from ragstore.app import Ragstore


def drop(
    ctx: typer.Context,
    collection: Annotated[
        str | None, typer.Argument(metavar="COLLECTION", help="Name of the collection; -c says the same.")
    ] = None,
    named: Annotated[
        str | None, typer.Option("--collection", "-c", metavar="NAME", help="Name of the collection.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Remove a collection and all that is in it from both stores.

    It must be named: RAGSTORE_COLLECTION is no reason to drop one. Files stay, and so does the history of its
    documents. Stop the workers that ingest into it first: an ingest makes a new one of that name. Needs the PostgreSQL
    role that owns the tables. Safe to interrupt and to repeat.

    --json: {"collection", "documents": how many there were}.
    """
    if collection is not None and named is not None and collection != named:
        raise typer.BadParameter(f"{collection!r} and {named!r} are two collections: name one")
    name = collection or named
    if not name:
        raise typer.BadParameter("no collection is named: say 'ragstore drop COLLECTION'")
    with invocation_of(ctx).store() as store:
        if not yes and not _confirmed(store, name):
            say("nothing was dropped")
            raise typer.Exit(1)
        n_documents = store.drop_collection(name)
    if as_json:
        write_json({"collection": name, "documents": n_documents})
    else:
        write(f"{name} dropped, with {counted(n_documents, 'document')}")


def _confirmed(store: Ragstore, name: str) -> bool:
    n_documents = {found.name: found.documents for found in store.collections()}
    if name not in n_documents:
        raise CollectionNotFoundError(
            f"no collection named {name!r}", hint="run: ragstore status, which lists them", name=name
        )
    if not sys.stdin.isatty():
        raise UsageError(
            f"nobody is there to ask whether collection {one_line(name)} may go",
            hint="add --yes if all of it is to be deleted",
        )
    say(f"collection {name} has {counted(n_documents[name], 'document')}; drop it with all of them? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
