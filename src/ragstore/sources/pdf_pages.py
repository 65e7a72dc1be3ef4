"""Reader of PDF: the text of each page."""

from __future__ import annotations

import re

import pypdfium2

from ragstore.errors import ParseError
from ragstore.sources.raw import Choices, RawText

_TAIL_BYTES = 2048
# pdfium uses one of these characters for a hyphen that only divides a word at the end of a line.
_SOFT_BREAK = re.compile("[\x02\ufffe](?:\r?\n)?")


def read_pdf(data: bytes, choices: Choices) -> RawText:  # noqa: ARG001
    """Text by page.

    Raises:
        ParseError: encrypted, damaged, truncated, or pages without any text.
    """
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise _cannot_open(data, error) from error
    try:
        # pdfium repairs a truncated file, but returns only the part that is left.
        if b"%%EOF" not in data[-_TAIL_BYTES:]:
            raise _truncated()
        pages = [_page_text(document, number) for number in range(len(document))]
        title = document.get_metadata_value("Title")
    except pypdfium2.PdfiumError as error:
        raise ParseError("is a damaged PDF", hint="open it in a viewer and save it anew", reason=str(error)) from error
    finally:
        document.close()
    if not any(page.strip() for page in pages):
        raise ParseError(
            "has no text, only images",
            hint="run OCR on it first, e.g. with ocrmypdf",
            reason="scanned",
            pages=len(pages),
        )
    places = [{"page": number} for number in range(1, len(pages) + 1)]
    return RawText(pages, metadata={"title": title, "pages": len(pages)}, places=places)


def _page_text(document: pypdfium2.PdfDocument, number: int) -> str:
    page = document[number]
    try:
        text_page = page.get_textpage()
        try:
            text: str = text_page.get_text_bounded()
        finally:
            text_page.close()
    finally:
        page.close()
    return _SOFT_BREAK.sub("", text)


def _cannot_open(data: bytes, error: pypdfium2.PdfiumError) -> ParseError:
    if "password" in str(error).lower():
        return ParseError("is encrypted", hint="save a copy of it without a password", reason="encrypted")
    if b"%%EOF" not in data[-_TAIL_BYTES:]:
        return _truncated()
    return ParseError("is a damaged PDF", hint="open it in a viewer and save it anew", reason=str(error))


def _truncated() -> ParseError:
    return ParseError(
        "is a truncated PDF: its end is missing", hint="copy it again from where it is whole", reason="truncated"
    )
