"""``ragstore drop``: remove a collection from both stores."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption
from ragstore.cli.output import one_line, say, write, write_json
from ragstore.errors import UsageError

if TYPE_CHECKING:
    from ragstore.app import Ragstore


def drop(
    ctx: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a collection and all that is in it from both stores.

    Files stay, and so does the history of its documents. Stop the workers that ingest into it first: an ingest makes
    the collection anew. Needs the PostgreSQL role that owns the tables. Safe to interrupt and to repeat.

    --json: {"documents": how many there were}.
    """
    if not yes and not sys.stdin.isatty():
        raise UsageError(
            f"nobody is there to ask whether collection {one_line(collection)} may go",
            hint="add --yes if all of it is to be deleted",
        )
    with invocation_of(ctx).store() as store:
        if not yes and not _confirmed(store, collection):
            say("nothing was dropped")
            raise typer.Exit(1)
        n_documents = store.drop_collection(collection)
    if as_json:
        write_json({"documents": n_documents})
    else:
        write(f"{collection} dropped, with {n_documents:,} documents")


def _confirmed(store: Ragstore, name: str) -> bool:
    n_documents = {found.name: found.documents for found in store.collections()}
    if name not in n_documents:
        return True  # there is nothing to ask about: dropping it says so
    say(f"collection {name} has {n_documents[name]:,} documents; drop it with all of them? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
