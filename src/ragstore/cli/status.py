"""``ragstore status``: show whether both databases work, and their collections; or the settings."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragstore.cli.exit_status import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import breaking_width, counted, fitted, one_line, say, table, write, write_json
from ragstore.cli.progress import duration_in_words

if TYPE_CHECKING:
    from ragstore.settings import SettingRow


def status(
    ctx: typer.Context,
    as_json: JsonOption = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Show every option instead: value, origin, what it may be.")
    ] = False,
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="Do not mask passwords and keys.")] = False,
    _quiet: QuietOption = False,
) -> None:
    """Show whether all is well, and the collections.

    Exit status 1 if a database does not answer, its schema is not up to date, or the two are not of one moment: one
    was emptied, restored, or made for another. 5 if a store has lost what the other says that it had. `ragstore verify`
    looks at every node.

    --json: {"postgres": {"ok", "version", "url"}, "mongo": {"ok", "version", "url", "database"},
    "schema": {"ok", "current", "head"}, "stores": {"ok", "epoch"}, "collections": [{"name", "documents", "nodes",
    "model", "dim", "vector_type", "indexed"}], "whole": null or {"ok", "missing_tables", "empty_in_mongo":
    [collections], "pending", "overdue_s", "quarantined": {collection: documents}}}; with --settings {"settings":
    [{"name", "value", "origin", "default", "allowed", "help"}]}.
    """
    current = invocation_of(ctx).settings()
    if settings:
        from ragstore.settings import describe

        rows = describe(current, show_secrets=show_secrets)
        if as_json:
            write_json({"settings": [row.as_dict() for row in rows]})
        else:
            _write_lines(setting_lines(rows, breaking_width()))
        return

    from ragstore.app import servers

    found = servers.status(current, show_secrets=show_secrets).as_dict()
    if as_json:
        write_json(found)
    else:
        _write_lines(status_lines(found, breaking_width()))
    if current.embedded and any(_does_not_run(found[part]) for part in ("postgres", "mongo")):
        say("hint: start the embedded servers with: ragstore up")
    if not all(found[part]["ok"] for part in ("postgres", "mongo", "schema", "stores")):
        raise typer.Exit(1)
    if found["whole"] is not None and not found["whole"]["ok"]:
        raise typer.Exit(EXIT_DRIFT)


def status_lines(found: Mapping[str, Any], width: int | None = None) -> list[str]:
    """The status as lines of text, from the same values as ``--json``."""
    postgres, mongo, schema, stores = (found[part] for part in ("postgres", "mongo", "schema", "stores"))
    reachable = postgres["ok"] and mongo["ok"]
    migrated = "; run: ragstore migrate" if reachable and not schema["ok"] else ""
    lines = fitted(
        ("", "state", "version", "where"),
        [
            ("postgres", _state(postgres), postgres["version"], postgres["url"]),
            ("mongo", _state(mongo), mongo["version"], f"{mongo['url']}, database {mongo['database']}"),
            ("schema", _state(schema), schema["current"], f"newest is {schema['head']}{migrated}"),
            ("stores", _state(stores), None, f"epoch {stores['epoch']}" if stores["epoch"] else None),
        ],
        width,
    )
    parts = ("postgres", "mongo", "stores")
    lines += [f"{part}: {one_line(found[part]['error'])}" for part in parts if found[part].get("error")]
    collections = found["collections"]
    if not reachable:
        return lines
    lines += whole_lines(found.get("whole") or {})
    if not collections:
        return [*lines, "", "no collections yet; fill one with: ragstore ingest PATH"]
    shown = ("name", "documents", "nodes", "model", "dim", "indexed", "recall")
    columns = [name for name in shown if name in collections[0]]
    headings = ["collection" if name == "name" else name.replace("_", " ") for name in columns]
    return [
        *lines,
        "",
        *table(headings, [[_shown(collection, name) for name in columns] for collection in collections]),
    ]


def _shown(collection: Mapping[str, Any], name: str) -> object:
    if name != "recall":
        return collection[name]
    if collection["exact"]:
        return "exact"
    return "" if collection["recall"] is None else f"{collection['recall']:.3f}"


def whole_lines(whole: Mapping[str, Any]) -> list[str]:
    """Lines about what is lost, waits or was set aside, each with the command for it."""
    lines = [
        f"NOT WHOLE: the vector table of collection {name} is gone; run: ragstore repair"
        for name in whole.get("missing_tables", ())
    ]
    lines += [
        f"NOT WHOLE: MongoDB has no node of collection {name}; run: ragstore repair"
        for name in whole.get("empty_in_mongo", ())
    ]
    if whole.get("pending"):
        since = f", the oldest since {duration_in_words(whole['overdue_s'])}" if whole["overdue_s"] >= 1 else ""
        lines.append(f"pending: {counted(whole['pending'], 'change')} for MongoDB{since}")
    for name, n in whole.get("quarantined", {}).items():
        lines += [f"in quarantine: {counted(n, 'document')} of {name}", f"  run: ragstore quarantine list -c {name}"]
    return lines


def setting_lines(rows: list[SettingRow], width: int | None = None) -> list[str]:
    """Each option on a line, with the place where it was set, if it was; its meaning below."""
    lines = []
    for row in rows:
        value = "unset" if row.value is None else repr(row.value)
        lines += _wrapped(f"{row.name} = {value}  ({row.origin})", "", width)
        lines += _wrapped(f"{row.help}; {row.allowed}", "    ", width)
    return lines


def _does_not_run(part: Mapping[str, Any]) -> bool:
    """Whether no server listens; a server that is full, or refuses for another reason, reports that itself."""
    return not part["ok"] and (part["url"] is None or "refused" in part.get("error", ""))


def _wrapped(text: str, indent: str, width: int | None) -> list[str]:
    """Lines broken between words; a path counts as one word."""
    if width is None:
        return [f"{indent}{text}"]
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _state(part: Mapping[str, Any]) -> str:
    return "ok" if part["ok"] else "NOT OK"


def _write_lines(lines: list[str]) -> None:
    for line in lines:
        write(line)
