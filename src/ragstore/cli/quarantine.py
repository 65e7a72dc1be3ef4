"""``ragstore quarantine``: documents that could not be taken in, and trying them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.local_paths import spellings
from ragstore.cli.options import CollectionOption, JsonOption
from ragstore.cli.output import one_line, write, write_json, write_json_list

if TYPE_CHECKING:
    from ragstore.model.audit import QuarantineEntry

Step = Literal["list", "retry"]


def quarantine(
    ctx: typer.Context,
    step: Annotated[Step, typer.Argument(help="list: show them; retry: let the next ingest try them again.")] = "list",
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="[DOCUMENT]...", help="Only these to retry; all where none is named.")
    ] = None,
    collection: CollectionOption = None,
    as_json: JsonOption = False,
) -> None:
    """List or retry what could not be taken in.

    --json: list {"quarantine": [{"document_id", "source_uri", "code", "reason", "hint", "retry", "attempts",
    "first_at", "last_at"}]}, times in ISO 8601; retry {"released": number}.
    """
    with invocation_of(ctx).store() as store:
        if step == "retry":
            meant = [spelling for document in documents or () for spelling in spellings(document)]
            n_released = store.retry_quarantine(*meant, collection=collection)
            if as_json:
                write_json({"released": n_released})
            else:
                write(f"{n_released:,} released; the next ingest tries them again")
            return
        entries = store.quarantined(collection)
    if as_json:
        write_json_list("quarantine", (entry.as_dict() for entry in entries))
        return
    for line in entry_lines(entries):
        write(line)


def entry_lines(entries: Sequence[QuarantineEntry]) -> list[str]:
    """Each document with its reason and what to do about it."""
    if not entries:
        return ["nothing is in quarantine"]
    lines: list[str] = []
    for entry in entries:
        last = entry.last_at.isoformat(sep=" ", timespec="seconds")
        lines.append(one_line(entry.document_id))
        lines.append(f"    {one_line(entry.reason)} ({entry.code}, tried {entry.attempts} times, last {last})")
        if entry.hint:
            lines.append(f"    hint: {one_line(entry.hint)}")
    return lines
