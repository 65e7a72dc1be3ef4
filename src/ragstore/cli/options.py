"""Options that several commands share, and checks of arguments."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.model.document import IN_CONTAINER
from ragstore.model.selected import LEFT_OUT_FILES, LEFT_OUT_FOLDERS

Mode = Literal["vector", "keyword", "hybrid"]


def not_blank(text: str) -> str:
    """Refuse a text that is empty or only has spaces."""
    if not text.strip():
        raise typer.BadParameter("there is nothing to look for in an empty text")
    return text


def _hush(ctx: typer.Context, quiet: bool) -> bool:
    invocation_of(ctx).quiet = quiet
    return quiet


QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_hush, help="Nothing but errors and warnings on standard error.")
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="GLOB",
        help="Take only files that match, such as '*.md' or 'manuals/'; repeatable. The syntax is that of .gitignore.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Leave out files and folders that match; repeatable. A .ragstoreignore file does so for its folder and "
        "all below.",
    ),
]
NoDefaultExcludesOption = Annotated[
    bool,
    typer.Option(
        "--no-default-excludes",
        help=f"Take also what is left out by default: {' '.join((*LEFT_OUT_FOLDERS, *LEFT_OUT_FILES))}.",
    ),
]
ChecksumOption = Annotated[
    bool,
    typer.Option("--checksum", help="Hash each file, whatever its size and times say. Also: RAGSTORE_CHECKSUM."),
]
RereadOption = Annotated[
    bool,
    typer.Option(
        "--reread", help="Parse each file again, unchanged or not; only chunks that come out otherwise are embedded."
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Set aside documents of which text may be missing or wrong, instead of taking them with a note. Also: "
        "RAGSTORE_STRICT.",
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Name each document with notes, and all that was passed over.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
CollectionOption = Annotated[
    str | None,
    typer.Option("--collection", "-c", metavar="NAME", help="Collection; RAGSTORE_COLLECTION where none is named."),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", "-k", min=1, max=1000, help="Hits; RAGSTORE_TOP_K where none is named.")
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="KEY=VALUE",
        help="Only nodes whose metadata match, such as lang=en, year>=2020 or tags:any=red,blue; all of several. "
        "`ragstore query --help` lists the operators.",
    ),
]
FilterKeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter-key",
        metavar="KEY",
        help="Key of the metadata that filters will name often: it gets indexes of its own, for good; repeatable.",
    ),
]
FollowLinksOption = Annotated[
    bool,
    typer.Option("--follow-links", help="Read also what links in the folders lead to outside of them."),
]
ModeOption = Annotated[Mode, typer.Option("--mode", help="Rank by meaning, by words, or by both.")]
ContextOption = Annotated[
    int,
    typer.Option(
        "--context", metavar="N", min=0, max=50, help="Show each hit with N chunks of its document on each side."
    ),
]
MmrOption = Annotated[
    float | None,
    typer.Option(
        "--mmr",
        metavar="LAMBDA",
        min=0,
        max=1,
        help="Prefer hits that differ: 1 ranks by likeness alone, 0 by variety.",
    ),
]


WHERE_DOCUMENTS_ARE = "run: ragstore documents; -c names another collection"


def spellings(document: str) -> list[str]:
    """The document ids that an argument may mean; first the argument itself."""
    if "://" in document:
        return [document]
    path, mark, member = document.partition(IN_CONTAINER)
    absolute = os.path.abspath(os.path.expanduser(path))
    paths = [path, absolute, os.path.realpath(absolute)]
    return list(dict.fromkeys(f"{each}{mark}{member}" for each in paths))
