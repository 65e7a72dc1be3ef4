"""``ragstore drill``: restore the newest backup into throwaway servers, and check it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.audits import in_words
from ragstore.cli.backup import KeyOption, TargetArgument
from ragstore.cli.exit_status import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import one_line, write, write_json
from ragstore.cli.progress import shown_line

if TYPE_CHECKING:
    from ragstore.model.drill import DrillReport

_EXIT_COULD_NOT_RUN = 1


def drill(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    target: TargetArgument,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Write the report to FILE.json and FILE.md; a suffix is replaced."
        ),
    ] = None,
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics", metavar="FILE", help="Write metrics for Prometheus' textfile collector: *.prom."),
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Practise a restore: the newest backup, into embedded servers that are deleted at the end.

    The databases in use are not touched. What is restored is verified deeply, counted, and asked the questions that
    were stored with the backup. Exit status: 0, every check was made and passed; 5, one failed; 1, the drill could not
    run, or not all of it.

    --json: {"ok", "outcome": "passed", "failed" or "could_not_run", "target", "at", "backup", "made_at", "data_age_s",
    "recovery_s", "documents", "nodes", "checks": [{"name", "outcome", "detail"}], "seconds"}.
    """
    settings = invocation_of(ctx).settings()
    import orjson

    from ragstore.app.drills import drill as run
    from ragstore.backup.drill import write_metrics, write_report

    with shown_line(in_words, quiet=quiet) as listener:
        report = run(settings, target, key=key, progress=listener)
    if report_file is not None:
        write_report(report, report_file, orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2) + b"\n")
    if metrics_file is not None:
        write_metrics(report, metrics_file, time.time())
    if as_json:
        write_json(report.as_dict())
    else:
        for line in drill_lines(report):
            write(line)
    if not report.ok:
        raise typer.Exit(EXIT_DRIFT if report.outcome == "failed" else _EXIT_COULD_NOT_RUN)


def drill_lines(report: DrillReport) -> list[str]:
    said = {"passed": "passed", "failed": "failed", "could_not_run": "could not run"}
    lines = [f"drill {said[report.outcome]}: backup {report.backup or 'none'} of {report.target}"]
    if report.data_age_s is not None and report.recovery_s is not None:
        lines.append(f"  data {report.data_age_s:,.0f} s old, recovered in {report.recovery_s:.1f} s")
    lines += [f"  {said[c.outcome]}: {c.name.replace('_', ' ')}: {one_line(c.detail)}" for c in report.checks]
    return lines
