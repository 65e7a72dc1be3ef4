"""``ragstore history``: show the events of a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import WHERE_DOCUMENTS_ARE, CollectionOption, JsonOption, QuietOption, spellings
from ragstore.cli.output import breaking_width, fitted, write, write_json_list
from ragstore.errors import DocumentNotFoundError

if TYPE_CHECKING:
    from ragstore.model.document import Event


def history(
    ctx: typer.Context,
    document: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Its id, or a path.")],
    collection: CollectionOption = None,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Show what happened to a document.

    The oldest event first; also of a document that is deleted.

    --json: {"events": [{"event_id", "at", "worker", "document_id", "revision", "action", "run_id", "n_nodes",
    "n_embedded", "n_reused", "detail"}]}, times in ISO 8601.
    """
    with invocation_of(ctx).store() as store:
        found = (store.history(spelling, collection) for spelling in spellings(document))
        events = next((events for events in found if events), None)
    if events is None:
        raise DocumentNotFoundError(
            f"no document {document}",
            hint=WHERE_DOCUMENTS_ARE,
            document_id=document,
        )
    if as_json:
        write_json_list("events", (event.as_dict() for event in events))
        return
    for line in event_lines(events, breaking_width()):
        write(line)


def event_lines(events: Sequence[Event], width: int | None = None) -> list[str]:
    """A table of events as text; a worker is shown by its host and process."""
    headings = ("at", "action", "revision", "nodes", "embedded", "reused", "worker")
    return fitted(
        headings,
        [
            (each.at, each.action, each.revision, each.n_nodes, each.n_embedded, each.n_reused, _short(each.worker))
            for each in events
        ],
        width,
    )


def _short(worker: str) -> str:
    """``host/pid`` of ``host/namespace/pid/start``; the long form distinguishes processes with the same pid."""
    host, *parts = worker.split("/")
    return f"{host}/{parts[1]}" if len(parts) == 3 else worker
