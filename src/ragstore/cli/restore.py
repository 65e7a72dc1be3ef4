"""``ragstore restore``: bring collections of a backup back into both stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.audits import in_words
from ragstore.cli.backup import BackupOption, KeyOption, TargetArgument
from ragstore.cli.exit_status import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import counted, one_line, write, write_json
from ragstore.cli.progress import shown_line

if TYPE_CHECKING:
    from ragstore.model.backup import RestoreReport


def restore(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    target: TargetArgument,
    backup: BackupOption = None,
    collections: Annotated[
        list[str] | None, typer.Option("--collection", "-c", metavar="NAME", help="Only this one; repeatable.")
    ] = None,
    renamed: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="[OLD=]NEW", help="Restore a collection under another name; repeatable."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up collections of these names, once the others are complete.")
    ] = False,
    key: KeyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Restore a backup, whole or some collections, beside what is there or in its place.

    Nothing of a collection can be read before all of it can; a part that is missing or damaged is named, and nothing is
    restored. A new epoch begins: writers that began before are refused. At the end both stores are reconciled, the
    indexes built, and everything verified. Safe to interrupt: the same command goes on. Exit status 5: the stores do
    not agree at the end.

    --json: {"ok", "backup", "target", "made_at", "collections": {name in the backup: name here}, "replaced",
    "documents", "nodes", "notes", "epoch", "drift": {kind: count}, "seconds_load", "seconds_ready", "seconds"}.
    """
    invocation = invocation_of(ctx)
    settings = invocation.settings()
    from ragstore.app import backups

    with shown_line(in_words, quiet=quiet) as listener:
        wanted = backups.Wanted(backup, collections or (), renamed or (), replace=replace)
        report = backups.restore(settings, target, wanted, key=key, starting=invocation.starting, progress=listener)
    if as_json:
        write_json(report.as_dict())
    else:
        for line in restore_lines(report):
            write(line)
    if not report.ok:
        raise typer.Exit(EXIT_DRIFT)


def restore_lines(report: RestoreReport) -> list[str]:
    names = [old if old == new else f"{old} as {new}" for old, new in report.collections.items()]
    line = (
        f"restored {', '.join(names)} of {report.made_at}: {counted(report.documents, 'document')}, "
        f"{counted(report.nodes, 'node')}; epoch {report.epoch} has begun; ready after {report.seconds_ready:.1f} s"
    )
    lines = [line]
    lines += [f"  replaced: {name}" for name in report.replaced]
    lines += [f"  {one_line(note)}" for note in report.notes]
    if report.ok:
        lines.append("  verified deeply: both stores agree")
    else:
        kinds = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in report.drift.items())
        lines.append(f"  the stores do not agree: {kinds}; see 'ragstore verify --deep'")
    return lines
