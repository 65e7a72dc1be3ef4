"""``ragstore sync``: make a collection equal to its folders."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.ingest import tell_report
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import (
    ChecksumOption,
    CollectionOption,
    ExcludeOption,
    FilterKeyOption,
    FollowLinksOption,
    IncludeOption,
    JsonOption,
    NoDefaultExcludesOption,
    QuietOption,
    RereadOption,
    StrictOption,
    VerboseOption,
)
from ragstore.cli.progress import shown_progress


def sync(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders; folders with all below.")],
    collection: CollectionOption = None,
    filter_keys: FilterKeyOption = None,
    allow_mass_delete: Annotated[
        bool,
        typer.Option(
            "--allow-mass-delete", help="Also delete where most of a collection, or all of a folder, seems gone."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    follow_links: FollowLinksOption = False,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    no_default_excludes: NoDefaultExcludesOption = False,
    checksum: ChecksumOption = False,
    reread: RereadOption = False,
    strict: StrictOption = False,
    verbose: VerboseOption = False,
    _as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add and update documents, and delete those whose file is gone.

    Deletes only what an ingest or a sync read from below these folders, also files that a pattern leaves out now; what
    LlamaIndex code added stays. Deletes nothing where a folder cannot be listed. Would more than 20 % of the collection
    and more than 10 documents go, or all of a folder that shows none any more, nothing is deleted and the exit status
    is 4. Links that lead out of the folders are not followed and are named; documents read through them before stay as
    they are. Safe to interrupt and to repeat. Exit status 3: some documents are in quarantine, the others are in.

    Names what it deletes, up to 20 documents in text and all in --json; a dry run says the same of what would be, with
    the same exit status.

    --json: as that of `ragstore ingest`; in a dry run what would be. Where it is refused, {"error", "lost_documents":
    [ids], "report"}.
    """
    with invocation_of(ctx).store() as store, shown_progress(quiet=quiet) as listener:
        report = store.sync(
            *paths,
            collection=collection,
            filter_keys=filter_keys or (),
            allow_mass_delete=allow_mass_delete,
            dry_run=dry_run,
            follow_links=follow_links or None,
            include=include or (),
            exclude=exclude or (),
            default_excludes=not no_default_excludes,
            checksum=checksum or None,
            reread=reread,
            strict=strict or None,
            progress=listener,
        )
    tell_report(ctx, report, dry_run=dry_run, verbose=verbose)
