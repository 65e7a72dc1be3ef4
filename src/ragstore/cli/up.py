"""``ragstore up``: start the embedded servers, or check the configured ones."""

from __future__ import annotations

from typing import Any

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import one_line, say, write, write_json


def up(ctx: typer.Context, as_json: JsonOption = False, _quiet: QuietOption = False) -> None:
    """Start the databases, or check them.

    Where no URL is set, starts the embedded servers and brings their schema up to date. Where RAGSTORE_POSTGRES_URL
    and RAGSTORE_MONGO_URL are set, checks that both answer, and leaves with 1 when one does not.

    --json: {"embedded", "home", "postgres": {"ok", "url"}, "mongo": {"ok", "url", "database"}}, passwords masked;
    home is null where the servers are not embedded.
    """
    invocation = invocation_of(ctx)
    settings = invocation.settings()

    from ragstore.app import servers
    from ragstore.app.wiring import home_of
    from ragstore.settings import masked_url

    home = None
    if settings.embedded:
        urls, home = servers.up(settings, starting=invocation.starting), str(home_of(settings))
        postgres: dict[str, Any] = {"ok": True, "url": masked_url(urls.postgres_url)}
        mongo: dict[str, Any] = {"ok": True, "url": masked_url(urls.mongo_url)}
    else:
        found = servers.status(settings)
        postgres, mongo = found.postgres, found.mongo
    if as_json:
        write_json(
            {
                "embedded": settings.embedded,
                "home": home,
                "postgres": {name: postgres[name] for name in ("ok", "url")},
                "mongo": {name: mongo[name] for name in ("ok", "url")} | {"database": settings.mongo_database},
            }
        )
    else:
        write(f"postgres  {postgres['url']}")
        write(f"mongo     {mongo['url']}, database {settings.mongo_database}")
    if home is not None and not as_json:
        write(f"data      {home}")
        invocation.note("stop them with: ragstore down")
    _leave_if_one_is_down({"postgres": postgres, "mongo": mongo})


def _leave_if_one_is_down(parts: dict[str, dict[str, Any]]) -> None:
    down = {name: part for name, part in parts.items() if not part["ok"]}
    for name, part in down.items():
        say(f"error: {name} does not answer: {one_line(part.get('error', 'no reason given'))}")
    if down:
        raise typer.Exit(1)
