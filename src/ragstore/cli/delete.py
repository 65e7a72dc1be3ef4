"""``ragstore delete``: remove documents from both stores."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.exit_status import EXIT_PARTLY, MAX_NAMES
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import WHERE_DOCUMENTS_ARE, CollectionOption, JsonOption, QuietOption, spellings
from ragstore.cli.output import first_of, one_line, say, write, write_json
from ragstore.errors import DocumentNotFoundError

if TYPE_CHECKING:
    from ragstore.app import Ragstore
    from ragstore.model.report import DeleteReport


def delete(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    documents: Annotated[list[str] | None, typer.Argument(metavar="[DOCUMENT]...", help="Ids, or paths.")] = None,
    below: Annotated[
        str | None, typer.Option("--below", metavar="PATH", help="All documents with this path or one below it.")
    ] = None,
    collection: CollectionOption = None,
    allow_mass_delete: Annotated[
        bool, typer.Option("--allow-mass-delete", help="With --below: also where most of a collection would go.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --below: say what would go, and change nothing.")
    ] = False,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Remove documents from both stores; archives, mailboxes and mails with all that is in them.

    Their files stay, and the next ingest of those adds them again; it adds a member of an archive or a mail again when
    that file has changed. Exit status 3: some were not there, the others are gone; 6: none was there. With --below
    nothing is removed if it were more than 20 % of the collection and more than 10 documents: exit status 4.

    --json: {"deleted": number, "missing": [ids]}; with --below {"deleted": number, "deleted_documents": [ids],
    "forgotten_documents": [ids that left the quarantine]}, in a dry run what would be.
    """
    if bool(documents) == (below is not None):
        raise typer.BadParameter("name a DOCUMENT, or a path by --below")
    if below is None and (dry_run or allow_mass_delete):
        raise typer.BadParameter("--dry-run and --allow-mass-delete go with --below")
    if below is not None:
        with invocation_of(ctx).store() as store:
            report = store.delete_below(
                below, collection=collection, allow_mass_delete=allow_mass_delete, dry_run=dry_run
            )
        _tell_below(report, as_json=as_json, dry_run=dry_run)
        return
    _delete_named(ctx, documents or [], collection, as_json=as_json)


def _tell_below(report: DeleteReport, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        write_json(report.as_dict())
        return
    deleted, left = ("would be deleted", "would leave quarantine") if dry_run else ("deleted", "left quarantine")
    write(f"{len(report.deleted_documents):,} {deleted}")
    for line in first_of(deleted, report.deleted_documents, MAX_NAMES):
        write(line)
    for line in first_of(left, report.forgotten_documents, MAX_NAMES):
        write(line)


def _delete_named(ctx: typer.Context, documents: list[str], collection: str | None, *, as_json: bool) -> None:
    with invocation_of(ctx).store() as store:
        deleted = {document: _deleted(store, document, collection) for document in documents}
        missing = [document for document, n_deleted in deleted.items() if not n_deleted]
        folder = next((document for document in missing if _has_below(store, document, collection)), None)
    n_deleted = sum(deleted.values())
    hint = WHERE_DOCUMENTS_ARE
    if folder is not None:
        hint = f"documents below it are there; run: ragstore delete --below {shlex.quote(folder)}"
    if not n_deleted:
        raise DocumentNotFoundError(
            f"no document {missing[0]}" if len(missing) == 1 else f"none of these {len(missing)} documents is there",
            hint=hint,
            missing=missing,
        )
    if as_json:
        write_json({"deleted": n_deleted, "missing": missing})
    else:
        write(f"{n_deleted:,} deleted")
    for document in missing:
        say(f"not there: {one_line(document)}")
    if folder is not None:
        say(f"hint: {hint}")
    if missing:
        raise typer.Exit(EXIT_PARTLY)


def _has_below(store: Ragstore, document: str, collection: str | None) -> bool:
    try:
        return bool(store.delete_below(document, collection=collection, dry_run=True, allow_mass_delete=True))
    except DocumentNotFoundError:
        return False


def _deleted(store: Ragstore, document: str, collection: str | None) -> int:
    return next((n for each in spellings(document) if (n := store.delete(each, collection=collection))), 0)
