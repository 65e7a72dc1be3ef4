"""``ragstore ingest``: add and update documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.edge import EXIT_PARTLY
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, FilterKeyOption, FollowLinksOption, JsonOption
from ragstore.cli.output import one_line, say, write, write_json
from ragstore.cli.progress import duration_in_words, shown_progress

if TYPE_CHECKING:
    from ragstore.app import Ragstore
    from ragstore.model.audit import QuarantineEntry
    from ragstore.model.report import IngestReport

MAX_REASONS = 5


def ingest(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH|URL...", help="Files and folders; folders with all below.")
    ],
    collection: CollectionOption = None,
    filter_keys: FilterKeyOption = None,
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no reasons on standard error.")] = False,
) -> None:
    """Add and update documents.

    What did not change is neither read nor embedded again. Deletes nothing. Links that lead out of the folders are not
    followed and are named. Safe to interrupt and to repeat. Exit status 3: some documents are in quarantine, the
    others are in.

    --json: {"added", "updated", "renamed", "deleted", "unchanged", "failed", "chunks", "embedded", "reused",
    "seconds"}.
    """
    with invocation_of(ctx).store() as store:
        declare_filter_keys(store, collection, filter_keys)
        with shown_progress(quiet=quiet) as listener:
            report = store.ingest(*paths, collection=collection, follow_links=follow_links or None, progress=listener)
        failures = store.quarantined(collection) if report.failed and not quiet else []
    if as_json:
        write_json(report.as_dict())
    else:
        write(report_line(report))
    for line in failure_lines(failures, report.failed):
        say(line)
    if report.failed:
        raise typer.Exit(EXIT_PARTLY)


def declare_filter_keys(store: Ragstore, collection: str | None, keys: list[str] | None) -> None:
    """Make the collection with these keys, or add them to it."""
    if keys:
        store.create_collection(collection or store.settings.collection, filter_keys=keys)


def report_line(report: IngestReport) -> str:
    """``2 added, 1 updated, 500 unchanged; 40 chunks (12 embedded, 28 reused) in 1.2 s``."""
    counts = {name: getattr(report, name) for name in ("added", "updated", "renamed", "deleted", "unchanged", "failed")}
    documents = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing found"
    seconds = f"{report.seconds:.1f} s" if report.seconds < 90 else duration_in_words(report.seconds)
    if not report.chunks:
        return f"{documents}; in {seconds}"
    return (
        f"{documents}; {report.chunks:,} chunks ({report.embedded:,} embedded, {report.reused:,} reused) in {seconds}"
    )


def failure_lines(entries: list[QuarantineEntry], n_failed: int) -> list[str]:
    """The latest reasons, and where to see the rest."""
    latest = sorted(entries, key=lambda entry: entry.last_at, reverse=True)[: min(n_failed, MAX_REASONS)]
    if not latest:
        return []
    lines = [f"quarantined: {one_line(entry.document_id)}: {one_line(entry.reason)}" for entry in latest]
    lines += [f"and {n_failed - len(latest):,} more"] if n_failed > len(latest) else []
    return [*lines, "hint: ragstore quarantine list shows all with their reasons"]
