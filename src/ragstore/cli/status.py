"""``ragstore status``: whether both databases answer, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption
from ragstore.cli.output import one_line, say, table, write, write_json

if TYPE_CHECKING:
    from ragstore.settings import SettingRow


def status(
    ctx: typer.Context,
    as_json: JsonOption = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Show every option instead: value, origin, what it may be.")
    ] = False,
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="Do not mask passwords and keys.")] = False,
) -> None:
    """Show whether all is well, and the collections.

    Exit status 1 if a database does not answer, its schema is not up to date, or the two are not of one moment: one
    was emptied, restored, or made for another.

    --json: {"postgres": {"ok", "version", "url"}, "mongo": {"ok", "version", "url", "database"},
    "schema": {"ok", "current", "head"}, "stores": {"ok", "epoch"}, "collections": [{"name", "documents", "nodes",
    "model", "dim"}]};
    with --settings {"settings": [{"name", "value", "origin", "default", "allowed", "help"}]}.
    """
    current = invocation_of(ctx).settings()
    if settings:
        from ragstore.settings import describe

        rows = describe(current, show_secrets=show_secrets)
        if as_json:
            write_json({"settings": [row.as_dict() for row in rows]})
        else:
            _write_lines(setting_lines(rows))
        return

    from ragstore.app import servers

    found = servers.status(current, show_secrets=show_secrets).as_dict()
    if as_json:
        write_json(found)
    else:
        _write_lines(status_lines(found))
    if current.embedded and any(_does_not_run(found[part]) for part in ("postgres", "mongo")):
        say("hint: start the embedded servers with: ragstore up")
    if not all(found[part]["ok"] for part in ("postgres", "mongo", "schema", "stores")):
        raise typer.Exit(1)


def status_lines(found: Mapping[str, Any]) -> list[str]:
    """The status for people, from the same values as ``--json``."""
    postgres, mongo, schema, stores = (found[part] for part in ("postgres", "mongo", "schema", "stores"))
    reachable = postgres["ok"] and mongo["ok"]
    migrated = "; run: ragstore migrate" if reachable and not schema["ok"] else ""
    lines = table(
        ("", "state", "version", "where"),
        [
            ("postgres", _state(postgres), postgres["version"], postgres["url"]),
            ("mongo", _state(mongo), mongo["version"], f"{mongo['url']}, database {mongo['database']}"),
            ("schema", _state(schema), schema["current"], f"newest is {schema['head']}{migrated}"),
            ("stores", _state(stores), None, f"epoch {stores['epoch']}" if stores["epoch"] else None),
        ],
    )
    parts = ("postgres", "mongo", "stores")
    lines += [f"{part}: {one_line(found[part]['error'])}" for part in parts if found[part].get("error")]
    collections = found["collections"]
    if not reachable:
        return lines
    if not collections:
        return [*lines, "", "no collections yet; fill one with: ragstore ingest PATH"]
    shown = ("name", "documents", "nodes", "model", "dim", "vector_type", "indexed")
    columns = [name for name in shown if name in collections[0]]
    headings = ["collection" if name == "name" else name.replace("_", " ") for name in columns]
    return [*lines, "", *table(headings, [[collection[name] for name in columns] for collection in collections])]


def setting_lines(rows: list[SettingRow]) -> list[str]:
    """One option a line, those that somebody set marked with where; what they mean below each."""
    lines = []
    for row in rows:
        value = "unset" if row.value is None else repr(row.value)
        lines += [f"{row.name} = {value}  ({row.origin})", f"    {row.help}; {row.allowed}"]
    return lines


def _does_not_run(part: Mapping[str, Any]) -> bool:
    """Whether nothing listens; a server that is full, or refuses for another reason, says so itself."""
    return not part["ok"] and (part["url"] is None or "refused" in part.get("error", ""))


def _state(part: Mapping[str, Any]) -> str:
    return "ok" if part["ok"] else "NOT OK"


def _write_lines(lines: list[str]) -> None:
    for line in lines:
        write(line)
