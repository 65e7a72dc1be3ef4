"""``ragstore backup``: make, list, verify and prune backups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from ragstore.cli.exit_status import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import bytes_in_words, counted, one_line, table, write, write_json
from ragstore.cli.progress import shown_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ragstore.model.backup import BackupReport, Head, Loss, PruneReport, TargetReport
    from ragstore.model.report import Progress

    R = TypeVar("R", BackupReport, TargetReport, PruneReport)

Step = Literal["create", "list", "verify", "prune"]

TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="Folder, or fsspec URL such as s3://bucket/path.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Key file that encrypts: at least 32 random bytes."),
]
BackupOption = Annotated[
    str | None, typer.Option("--backup", metavar="ID", help="This backup, or the one that begins so; else the newest.")
]


def backup(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    step: Annotated[Step, typer.Argument(help="create, list, verify or prune.")],
    target: TargetArgument,
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", metavar="NAME", help="create: only this one; repeatable; all if none."),
    ] = None,
    key: KeyOption = None,
    backup_id: Annotated[
        str | None, typer.Option("--backup", metavar="ID", help="verify: only this one; the beginning is enough.")
    ] = None,
    acknowledge: Annotated[
        list[str] | None,
        typer.Option("--acknowledge", metavar="NAME", help="verify: the loss of this object is known; repeatable."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="WHICH", help="prune: such as 7, or last=3,daily=14,weekly=8."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="prune: say what would be deleted.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a backup, list those of a target, read every byte of them, or delete old ones.

    A backup is one moment of both stores, while workers write. create only adds objects, each under a name of its own,
    the manifest last; what an earlier backup has already is not stored again. Only prune deletes. list, verify and
    prune need no database; verify compares what is stored with its checksums, and with --key also what is in it. Exit
    status of list and verify: 5, something is lost that was not acknowledged.

    --json: create {"id", "target", "collections", "documents", "nodes", "n_packs", "n_packs_kept", "objects_new",
    "bytes", "bytes_new", "seconds"}; list {"backups": [{"id", "made_at", "documents", "nodes", "objects", "bytes",
    "bytes_new", "encrypted", "schema", "server", "deployment"}], "losses"}; verify {"ok", "target", "backups", "whole",
    "losses": [{"name", "what", "backups", "acknowledged"}], "objects", "bytes", "unreferenced", "content_checked",
    "seconds"}; prune {"target", "kept", "deleted", "objects_deleted", "bytes_deleted", "blocked_by", "dry_run"}.
    """
    _refuse_foreign_options(
        step,
        create={"-c": collections},
        verify={"--backup": backup_id, "--acknowledge": acknowledge},
        prune={"--keep": keep, "--dry-run": dry_run},
    )
    invocation = invocation_of(ctx)
    settings = invocation.settings()
    from ragstore.app import backups

    if step == "create":
        with shown_line(_nodes_in_words, quiet=quiet) as listener:
            _tell(
                backups.create(
                    settings,
                    target,
                    collections=collections or (),
                    key=key,
                    starting=invocation.starting,
                    progress=listener,
                ),
                _created_lines,
                as_json=as_json,
            )
    elif step == "list":
        _list(*backups.list_backups(target), as_json=as_json)
    elif step == "verify":
        with shown_line(_objects_in_words, quiet=quiet) as listener:
            report = backups.verify(target, key=key, backup=backup_id, acknowledge=acknowledge or (), progress=listener)
        _tell(report, _verified_lines, as_json=as_json)
        if not report.ok:
            raise typer.Exit(EXIT_DRIFT)
    else:
        if keep is None:
            raise typer.BadParameter("prune needs --keep: which backups are to be kept, such as --keep 7")
        _tell(backups.prune(target, keep, dry_run=dry_run), _pruned_lines, as_json=as_json)


def _refuse_foreign_options(step: Step, **options: dict[str, object]) -> None:
    """Refuse an option that only another step has, so that none is passed over in silence."""
    for owner, given in options.items():
        for name, value in given.items():
            if value and owner != step:
                raise typer.BadParameter(f"{name} is an option of {owner}, not of {step}")


def _tell(report: R, lines: Callable[[R], list[str]], *, as_json: bool) -> None:
    if as_json:
        write_json(report.as_dict())
        return
    for line in lines(report):
        write(line)


def _list(heads: Sequence[Head], losses: Sequence[Loss], *, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "backups": [head.as_dict() for head in heads],
                "losses": [{"name": loss.name, "what": loss.what, "backups": loss.backups} for loss in losses],
            }
        )
    else:
        rows = [
            (h.id, f"{h.n_documents:,}", f"{h.n_nodes:,}", bytes_in_words(h.n_bytes), bytes_in_words(h.n_bytes_new),
             "yes" if h.key_id else "no")
            for h in heads
        ]  # fmt: skip
        for line in (
            table(("backup", "documents", "nodes", "size", "new", "encrypted"), rows) if rows else ["no backup"]
        ):
            write(line)
        for line in _loss_lines(losses):
            write(line)
    if losses:
        raise typer.Exit(EXIT_DRIFT)


def _created_lines(report: BackupReport) -> list[str]:
    line = (
        f"backup {report.id}: {counted(report.documents, 'document')}, {counted(report.nodes, 'node')} of "
        f"{counted(len(report.collections), 'collection')}; {bytes_in_words(report.bytes_new)} new of "
        f"{bytes_in_words(report.bytes)}; in {report.seconds:.1f} s"
    )
    return [line]


def _verified_lines(report: TargetReport) -> list[str]:
    said = "ok" if report.ok else "not ok"
    line = (
        f"{said}: {len(report.whole)} of {counted(len(report.backups), 'backup')} whole; "
        f"{counted(report.objects, 'object')}, {bytes_in_words(report.bytes)} read in {report.seconds:.1f} s"
    )
    lines = [line]
    if not report.content_checked:
        lines.append("  encrypted objects were compared as stored; --key also decrypts them")
    if report.unreferenced:
        lines.append(f"  {counted(report.unreferenced, 'object')} that no backup needs; prune deletes them")
    return lines + _loss_lines(report.losses)


def _loss_lines(losses: Sequence[Loss]) -> list[str]:
    return [
        f"  {'known loss' if loss.acknowledged else 'lost'}: {one_line(loss.name)} is {loss.what}; "
        f"of {', '.join(loss.backups)}"
        for loss in losses
    ]


def _pruned_lines(report: PruneReport) -> list[str]:
    would = "would be " if report.dry_run else ""
    lines = [f"  deleted: {backup}" for backup in report.deleted]
    if report.blocked_by:
        lines.append(
            f"  objects stay: {report.blocked_by} says that a backup is being made; prune again when it is done"
        )
    line = (
        f"{counted(len(report.deleted), 'backup')} and {counted(report.objects_deleted, 'object')} {would}deleted, "
        f"{bytes_in_words(report.bytes_deleted)}; {len(report.kept)} kept"
    )
    return [line, *lines]


def _nodes_in_words(progress: Progress) -> str:
    rate = f", {progress.done / progress.seconds:,.0f} nodes/s" if progress.seconds > 0 else ""
    return f"{progress.step}: {progress.done:,} nodes{rate}"


def _objects_in_words(progress: Progress) -> str:
    return f"{progress.done:,} of {progress.expected or 0:,} objects"
