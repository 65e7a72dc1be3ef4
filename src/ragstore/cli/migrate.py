"""``ragstore migrate``: bring the schema of both databases up to date."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import table, write, write_json

Step = Literal["apply", "plan", "status"]


def migrate(
    ctx: typer.Context,
    step: Annotated[
        Step, typer.Argument(help="apply: do it; plan: show it; status: is anything left to do.")
    ] = "apply",
    as_sql: Annotated[
        bool, typer.Option("--sql", help="With plan: the SQL of PostgreSQL's steps, to be reviewed and run by psql.")
    ] = False,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Bring both schemas up to date.

    --json: apply {"applied": [{"store", "name", "summary"}]}, plan {"planned": [the same]}, with --sql
    also "sql", status {"ok", "current", "head"}. status leaves with 1 when something is left to do.
    """
    if as_sql and step != "plan":
        raise typer.BadParameter(f"{step} shows no SQL: say 'ragstore migrate plan --sql'")
    settings = invocation_of(ctx).settings()

    from ragstore.app import migrations

    if step == "status":
        found = migrations.status(settings)
        if as_json:
            write_json({"ok": found.ok, "current": found.current, "head": found.head})
        else:
            rest = "up to date" if found.ok else "run: ragstore migrate"
            write(f"current {found.current or 'none'}, newest {found.head}: {rest}")
        if not found.ok:
            raise typer.Exit(1)
        return
    script = ""
    if as_sql:
        steps, script = migrations.plan_sql(settings)
    else:
        steps = migrations.plan(settings) if step == "plan" else migrations.apply(settings)
    key = "planned" if step == "plan" else "applied"
    rows = [{"store": each.store, "name": each.name, "summary": each.summary} for each in steps]
    if as_json:
        write_json({key: rows, "sql": script} if as_sql else {key: rows})
    elif as_sql:
        write(script, end="")
    elif not rows:
        write("up to date, nothing to do")
    else:
        for line in table(("store", key, "what it does"), [list(row.values()) for row in rows]):
            write(line)
