"""``ragstore quarantine``: list documents that could not be ingested, or let them be tried again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragstore.cli.exit_status import EXIT_PARTLY
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, JsonOption, QuietOption, spellings
from ragstore.cli.output import counted, one_line, say, without_name, write, write_json, write_json_list
from ragstore.errors import DocumentNotFoundError

if TYPE_CHECKING:
    from ragstore.app import Ragstore
    from ragstore.model.document import QuarantineEntry

Step = Literal["list", "retry"]


def quarantine(
    ctx: typer.Context,
    step: Annotated[Step, typer.Argument(help="list: show them; retry: let the next ingest try them again.")] = "list",
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="[DOCUMENT]...", help="Only these to retry; all where none is named.")
    ] = None,
    collection: CollectionOption = None,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """List or retry what could not be taken in.

    --json: list {"quarantine": [{"document_id", "source_uri", "code", "reason", "hint", "retry", "attempts",
    "first_at", "last_at"}]}, times in ISO 8601; retry {"released": number, "missing": [ids]}.

    Exit status of retry: 3, some are not in quarantine, the others are released; 6, none is.
    """
    with invocation_of(ctx).store() as store:
        if step == "retry":
            _retry(store, documents or [], collection, as_json=as_json)
            return
        if documents:
            raise typer.BadParameter("list takes no documents: it shows all; `quarantine retry DOCUMENT` takes some")
        entries = store.quarantined(collection)
    if as_json:
        write_json_list("quarantine", (entry.as_dict() for entry in entries))
        return
    for line in entry_lines(entries):
        write(line)


def _retry(store: Ragstore, documents: Sequence[str], collection: str | None, *, as_json: bool) -> None:
    if not documents:
        n_released, missing = store.retry_quarantine(collection=collection), []
    else:
        in_quarantine = {entry.document_id for entry in store.quarantined(collection)}
        meant = {document: in_quarantine.intersection(spellings(document)) for document in documents}
        missing = [document for document, found in meant.items() if not found]
        if len(missing) == len(meant):
            raise DocumentNotFoundError(
                f"{missing[0]} is not in quarantine"
                if len(missing) == 1
                else f"none of {len(missing)} is in quarantine",
                hint="run: ragstore quarantine list; -c names another collection",
                missing=missing,
            )
        n_released = store.retry_quarantine(*set().union(*meant.values()), collection=collection)
    if as_json:
        write_json({"released": n_released, "missing": missing})
    else:
        write(f"{n_released:,} released; the next ingest tries all that are in quarantine and were released")
    for document in missing:
        say(f"not in quarantine: {one_line(document)}")
    if missing:
        raise typer.Exit(EXIT_PARTLY)


def entry_lines(entries: Sequence[QuarantineEntry]) -> list[str]:
    """Lines with each document, the reason, and its hint."""
    if not entries:
        return ["nothing is in quarantine"]
    lines: list[str] = []
    for entry in entries:
        last = entry.last_at.isoformat(sep=" ", timespec="seconds")
        lines.append(one_line(entry.document_id))
        reason = one_line(without_name(entry.reason, entry.document_id))
        lines.append(f"    {reason} ({entry.code}, tried {counted(entry.attempts, 'time')}, last {last})")
        if entry.hint:
            lines.append(f"    hint: {one_line(entry.hint)}")
    return lines
