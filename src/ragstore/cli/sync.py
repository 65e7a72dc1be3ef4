"""``ragstore sync``: make a collection equal to its folders."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.edge import EXIT_PARTLY
from ragstore.cli.ingest import declare_filter_keys, failure_lines, report_line
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, FilterKeyOption, FollowLinksOption, JsonOption
from ragstore.cli.output import say, write, write_json
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be done, and change nothing.")] = False,
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no reasons on standard error.")] = False,
) -> None:
    """Add and update documents, and delete those whose file is gone.

    Deletes only what an ingest or a sync read from below these folders; what LlamaIndex code added stays. Deletes
    nothing where a folder cannot be listed. Would more than 20 % of the collection and more than 10 documents go, or
    all of a folder that shows none any more, nothing is deleted and the exit status is 4. Links that lead out of the
    folders are not followed and are named; documents read through them before stay as they are. Safe to interrupt and
    to repeat. Exit status 3: some documents are in quarantine, the others are in.

    --json: {"added", "updated", "renamed", "deleted", "unchanged", "failed", "chunks", "embedded", "reused",
    "seconds"}; in a dry run the counts of documents that would be.
    """
    with invocation_of(ctx).store() as store:
        declare_filter_keys(store, collection, None if dry_run else filter_keys)
        with shown_progress(quiet=quiet) as listener:
            report = store.sync(
                *paths,
                collection=collection,
                allow_mass_delete=allow_mass_delete,
                dry_run=dry_run,
                follow_links=follow_links or None,
                progress=listener,
            )
        failures = store.quarantined(collection) if report.failed and not quiet and not dry_run else []
    if as_json:
        write_json(report.as_dict())
    else:
        write(f"would be: {report_line(report)}" if dry_run else report_line(report))
    for line in failure_lines(failures, report.failed):
        say(line)
    if report.failed and not dry_run:
        raise typer.Exit(EXIT_PARTLY)
