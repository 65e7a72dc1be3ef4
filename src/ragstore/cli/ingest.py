"""``ragstore ingest``: add and update documents."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.exit_status import EXIT_PARTLY, EXIT_REFUSED, MAX_NAMES
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
from ragstore.cli.output import counted, first_of, one_line, say, without_name, write, write_json
from ragstore.cli.progress import duration_in_words, shown_progress
from ragstore.cli.transfers import made_lines
from ragstore.errors import MassDeletionError
from ragstore.model.notes import sentences

if TYPE_CHECKING:
    from ragstore.model.report import Findings, IngestReport, NotedDocuments

MAX_REASONS = 5
MAX_EXAMPLES = 3
_NO_TYPE = ("no type", "without a type")

_COUNTED = ("added", "updated", "renamed", "deleted", "unchanged", "failed")


def ingest(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders; folders with all below.")],
    collection: CollectionOption = None,
    filter_keys: FilterKeyOption = None,
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
    """Add and update documents.

    What did not change is neither read nor embedded again. Deletes nothing but what an archive, a mailbox or a mail no
    longer has in it. Links that lead out of the folders are not followed and are named. What is left out, by a pattern
    or by default, is counted. Safe to interrupt and to repeat. Exit status 3: some documents are in quarantine, the
    others are in.

    --json: {"added", "updated", "renamed", "deleted", "unchanged", "failed", "chunks", "embedded", "reused", "seconds",
    "noted": {"count", "by_note": {sentence: documents}, "documents": [{"document_id", "notes"}], the first 1,000},
    "passed_over": {reason: {"count", "examples"}}, "collection_made": null or {"name", "model", "dim"},
    "deleted_documents": [ids], "left_out_documents": [those deleted whose file is left out now],
    "forgotten_documents": [ids that left the quarantine with their file], "quarantined": [{"document_id", "code",
    "reason"}], "refused": null or {"code", "message", "hint"}}.
    """
    with invocation_of(ctx).store() as store, shown_progress(quiet=quiet) as listener:
        report = store.ingest(
            *paths,
            collection=collection,
            filter_keys=filter_keys or (),
            follow_links=follow_links or None,
            include=include or (),
            exclude=exclude or (),
            default_excludes=not no_default_excludes,
            checksum=checksum or None,
            reread=reread,
            strict=strict or None,
            progress=listener,
        )
    tell_report(ctx, report, verbose=verbose)


def tell_report(ctx: typer.Context, report: IngestReport, *, dry_run: bool = False, verbose: bool = False) -> None:
    """Print a report with all that was skipped, made, refused or removed; exits with the status that fits it."""
    invocation = invocation_of(ctx)
    if invocation.json:
        write_json(report.as_dict())
    else:
        write(f"would be: {report_line(report)}" if dry_run else report_line(report))
        left_out = set(report.left_out_documents)
        gone = [document_id for document_id in report.deleted_documents if document_id not in left_out]
        deleted = "would be deleted" if dry_run else "deleted"
        for line in first_of(deleted, gone, MAX_NAMES):
            write(line)
        for line in first_of(f"{deleted}, left out now", report.left_out_documents, MAX_NAMES):
            write(line)
        forgotten = "would leave quarantine" if dry_run else "left quarantine"
        for line in first_of(f"{forgotten}, its file is gone", report.forgotten_documents, MAX_NAMES):
            write(line)
    invocation.note(*made_lines(report.collection_made, dry_run=dry_run), *noted_lines(report.noted, verbose=verbose))
    invocation.note(*passed_over_lines(report.passed_over, verbose=verbose))
    invocation.note(*failure_lines(report, ctx.params.get("collection"), dry_run=dry_run))
    if report.refused is not None:
        say(f"would be refused: {report.refused.message}" if dry_run else f"warning: {report.refused.message}")
        say(f"hint: {report.refused.hint}")
    if isinstance(report.refused, MassDeletionError):
        raise typer.Exit(EXIT_REFUSED)
    if report.failed:
        raise typer.Exit(EXIT_PARTLY)


def report_line(report: IngestReport) -> str:
    """``2 added, 1 updated, 500 unchanged; 40 chunks (12 embedded, 28 reused) in 1.2 s``."""
    counts = [f"{count:,} {name}" for name in _COUNTED if (count := getattr(report, name))]
    words = counts or ["nothing found"]
    if report.passed_over.total:
        words.append(f"{report.passed_over.total:,} passed over ({passed_over_words(report.passed_over)})")
    seconds = f"{report.seconds:.1f} s" if report.seconds < 90 else duration_in_words(report.seconds)
    chunks = f"; {counted(report.chunks, 'chunk')} ({report.embedded:,} embedded, {report.reused:,} reused)"
    return f"{', '.join(words)}{chunks if report.chunks else ''} in {seconds}"


def noted_lines(noted: NotedDocuments, *, verbose: bool = False) -> list[str]:
    """``3 documents with notes: decoded as shift_jis 2, pages without text 1``; verbose: and each with its notes."""
    if not noted.n_documents:
        return []
    by_note = ", ".join(f"{kind} {count:,}" for kind, count in sorted(noted.counts.items(), key=lambda each: -each[1]))
    lines = [f"{counted(noted.n_documents, 'document')} with notes: {one_line(by_note)}"]
    if not verbose:
        return lines
    lines += [f"  {one_line(name)}: {one_line(', '.join(sentences(notes)))}" for name, notes in noted.documents]
    n_more = noted.n_documents - len(noted.documents)
    return [*lines, f"  and {n_more:,} more; 'ragstore documents' shows them"] if n_more else lines


def passed_over_words(passed_over: Findings) -> str:
    """``.xlsx 1, without a type 1``; most first."""
    counts = sorted(passed_over.counts.items(), key=lambda each: -each[1])
    words = [(reason.partition(";")[0].removeprefix("type ").replace(*_NO_TYPE), count) for reason, count in counts]
    return ", ".join(f"{one_line(reason)} {count:,}" for reason, count in words)


def passed_over_lines(passed_over: Findings, *, verbose: bool = False) -> list[str]:
    """Lines about entries that are not taken: each reason with its count and first names."""
    lines = []
    for reason, count in sorted(passed_over.counts.items()):
        shown = passed_over.examples[reason][: None if verbose else MAX_EXAMPLES]
        lines.append(f"passed over: {count:,} ({reason})")
        lines += [f"  {one_line(name)}" for name in shown]
        lines += [f"  and {count - len(shown):,} more"] if count > len(shown) else []
    return lines


def failure_lines(report: IngestReport, collection: str | None = None, *, dry_run: bool = False) -> list[str]:
    """Lines with the first reasons, and the command that shows the rest."""
    heading = "cannot be taken in" if dry_run else "quarantined"
    shown = [f"{each.document_id}: {without_name(each.reason, each.document_id)}" for each in report.quarantined]
    lines = first_of(heading, shown, MAX_REASONS)
    if dry_run or not lines:
        return lines
    listing = shlex.join(["ragstore", "quarantine", "list", *(["-c", collection] if collection else [])])
    return [*lines, f"hint: '{listing}' shows all with their reasons"]
