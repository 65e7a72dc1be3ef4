"""``ragstore delete``: remove documents from both stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.exit_status import EXIT_PARTLY
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import WHERE_DOCUMENTS_ARE, CollectionOption, JsonOption, QuietOption, spellings
from ragstore.cli.output import one_line, say, write, write_json
from ragstore.errors import DocumentNotFoundError

if TYPE_CHECKING:
    from ragstore.app import Ragstore


def delete(
    ctx: typer.Context,
    documents: Annotated[list[str], typer.Argument(metavar="DOCUMENT...", help="Ids, or paths.")],
    collection: CollectionOption = None,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Remove documents from both stores.

    Their files stay, and the next ingest of those adds them again. Exit status 3: some were not there, the others are
    gone; 6: none was there.

    --json: {"deleted": number, "missing": [ids]}.
    """
    with invocation_of(ctx).store() as store:
        missing = [document for document in documents if not _deleted(store, document, collection)]
    n_deleted = len(documents) - len(missing)
    if not n_deleted:
        raise DocumentNotFoundError(
            f"no document {missing[0]}" if len(missing) == 1 else f"none of these {len(missing)} documents is there",
            hint=WHERE_DOCUMENTS_ARE,
            missing=missing,
        )
    if as_json:
        write_json({"deleted": n_deleted, "missing": missing})
    else:
        write(f"{n_deleted:,} deleted")
    for document in missing:
        say(f"not there: {one_line(document)}")
    if missing:
        raise typer.Exit(EXIT_PARTLY)


def _deleted(store: Ragstore, document: str, collection: str | None) -> bool:
    return any(store.delete(spelling, collection=collection) for spelling in spellings(document))
