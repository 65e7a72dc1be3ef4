"""Reader of RTF documents."""

from __future__ import annotations

import re

from striprtf.striprtf import rtf_to_text

from ragstore.errors import ParseError
from ragstore.sources.raw import Choices, RawText

_EMPTY_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")
_TITLE = re.compile(r"\{\\title ([^{}\\]{1,300})\}")


def read_rtf(data: bytes, choices: Choices) -> RawText:  # noqa: ARG001
    """The text, cells of tables divided by ``|``; images are left out.

    Raises:
        ParseError: it cannot be read.
    """
    source = data.decode("latin-1")
    try:
        text: str = rtf_to_text(source, errors="replace")  # type: ignore[no-untyped-call]
    except (ValueError, LookupError, IndexError, OverflowError) as error:
        raise ParseError(
            "is a damaged RTF document", hint="open it in an office program and save it anew", reason=str(error)[:200]
        ) from error
    title = _TITLE.search(source)
    n_bad = text.count("\ufffd")
    notes: dict[str, int | str] = {"replaced_chars": n_bad} if n_bad else {}
    return RawText([_EMPTY_LINES.sub("\n\n", text).strip()], metadata={"title": title[1] if title else ""}, notes=notes)
