"""Reader of PDF: the text of each page, with what was typed into its forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pypdfium2
import pypdfium2.raw as pdfium

from ragstore.errors import ParseError
from ragstore.sources.line_hyphens import join_lines
from ragstore.sources.pdf_forms import Forms
from ragstore.sources.pdf_text import PageText
from ragstore.sources.raw import Choices, RawText, real_title

_HEAD_BYTES = 1024
_DEFINED = re.compile(rb"\b(\d{1,10})\s+\d{1,5}\s+obj\b")
_NAMED = re.compile(rb"\b(\d{1,10})\s+\d{1,5}\s+R\b")
_FULL_LENGTH = re.compile(rb"/Linearized\b[^>]{0,200}?/L\s+(\d{1,12})")
# Some producers write texts whose spaces pdfium does not see; these pages, evenly apart, say whether it is so here.
_PROBED_PAGES = 5
# Shares of a page, and of all pages.
_MIN_PICTURE = 0.1
_MAX_BLANK = 0.5


@dataclass(frozen=True, slots=True)
class _Page:
    """One page.

    Args:
        has_picture: it has no text, but an image.
        is_blank: it has neither.
        is_unreadable: pdfium cannot load it.
    """

    text: str
    has_picture: bool = False
    is_blank: bool = False
    is_unreadable: bool = False


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
        is_repaired = not pdfium.FPDF_DocumentHasValidCrossReferenceTable(document)
        if _is_cut(data, is_repaired=is_repaired):
            raise _truncated()
        return _read(document)
    except pypdfium2.PdfiumError as error:
        raise _damaged(error) from error
    finally:
        document.close()


def _read(document: pypdfium2.PdfDocument) -> RawText:
    forms = Forms(document)
    pages = list(_pages(document, forms))
    texts = join_lines([page.text for page in pages])
    n_blank = sum(page.is_blank for page in pages)
    n_without_text = sum(page.has_picture for page in pages)
    if n_blank > len(pages) * _MAX_BLANK:
        # Too many to be empty: their text may be drawn in lines.
        n_blank, n_without_text = 0, n_without_text + n_blank
    counts = {
        "blank_pages": n_blank,
        "pages_without_text": n_without_text,
        "pages_unreadable": sum(page.is_unreadable for page in pages),
        "xfa_forms": int(forms.is_xfa),
    }
    if not any(text.strip() for text in texts):
        if counts["pages_unreadable"]:
            raise _damaged("no page can be read")
        raise ParseError(
            "has no text, only images",
            hint="run OCR on it first, e.g. with ocrmypdf",
            reason="scanned",
            pages=len(pages),
        )
    places = [{"page": number} for number in range(1, len(texts) + 1)]
    metadata = {"title": real_title(document.get_metadata_value("Title")), "pages": len(texts)}
    return RawText(texts, metadata=metadata, notes={name: n for name, n in counts.items() if n}, places=places)


def _pages(document: pypdfium2.PdfDocument, forms: Forms) -> Iterator[_Page]:
    n_pages = len(document)
    probed = range(0, n_pages, max(1, n_pages // _PROBED_PAGES))
    gaps = any(_has_lost_spaces(document, number) for number in probed)
    for number in range(n_pages):
        try:
            page = document[number]
        except pypdfium2.PdfiumError:
            yield _Page("", is_unreadable=True)
            continue
        try:
            text = _page_text(page, forms, gaps=gaps)
            has_picture = not text.strip() and _has_picture(page)
            yield _Page(text, has_picture=has_picture, is_blank=not text.strip() and not has_picture)
        finally:
            page.close()


def _has_lost_spaces(document: pypdfium2.PdfDocument, number: int) -> bool:
    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return False
    try:
        return PageText(page.get_textpage()).n_lost_spaces() > 0
    finally:
        page.close()


def _has_picture(page: pypdfium2.PdfPage) -> bool:
    """Whether there is an image that could show text: larger than a logo, or one whose size is not known."""
    width, height = page.get_size()
    for image in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE]):
        left, bottom, right, top = image.get_bounds()
        if image.level or (right - left) * (top - bottom) >= width * height * _MIN_PICTURE:
            return True
    return False


def _page_text(page: pypdfium2.PdfPage, forms: Forms, *, gaps: bool) -> str:
    text_page = page.get_textpage()
    try:
        lines = forms.lines(page, text_page)
        text = PageText(text_page).mended(gaps=gaps)
    finally:
        text_page.close()
    return "\n".join((text, *lines)) if lines else text


def _is_cut(data: bytes, *, is_repaired: bool) -> bool:
    """Whether the end of the file is missing, and pages with it: pdfium makes do with what is left."""
    if not is_repaired:
        return False
    defined = list(_DEFINED.finditer(data))
    if not defined or data.rfind(b"startxref") > defined[-1].start():
        return False
    full_length = _FULL_LENGTH.search(data[:_HEAD_BYTES])
    if full_length and len(data) < int(full_length[1]):
        return True
    # Without its end a file may still have all of its objects, if nothing in it names one that is missing.
    missing = {match[1] for match in _NAMED.finditer(data)} - {match[1] for match in defined}
    return bool(missing) or b"/ObjStm" in data or data.rfind(b"endobj") < defined[-1].start()


def _cannot_open(data: bytes, error: pypdfium2.PdfiumError) -> ParseError:
    if "password" in str(error).lower():
        return ParseError("is encrypted", hint="save a copy of it without a password", reason="encrypted")
    has_end = b"startxref" in data or b"%%EOF" in data
    return _damaged(error) if has_end and not _is_cut(data, is_repaired=True) else _truncated()


def _damaged(reason: object) -> ParseError:
    return ParseError("is a damaged PDF", hint="open it in a viewer and save it anew", reason=str(reason))


def _truncated() -> ParseError:
    return ParseError(
        "is a truncated PDF: its end is missing", hint="copy it again from where it is whole", reason="truncated"
    )
