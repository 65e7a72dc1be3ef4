"""Reader of PDF: the text of each page, with what was typed into its forms."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pypdfium2
import pypdfium2.raw as pdfium

from ragstore.errors import ParseError
from ragstore.sources.line_hyphens import join_lines
from ragstore.sources.pdf_forms import Forms
from ragstore.sources.pdf_text import PageText
from ragstore.sources.raw import Choices, RawText

_HEAD_BYTES = 1024
_DEFINED = re.compile(rb"\b(\d{1,10})\s+\d{1,5}\s+obj\b")
_NAMED = re.compile(rb"\b(\d{1,10})\s+\d{1,5}\s+R\b")
_FULL_LENGTH = re.compile(rb"/Linearized\b[^>]{0,200}?/L\s+(\d{1,12})")
# Some producers write texts whose spaces pdfium does not see; these pages, evenly apart, say whether it is so here.
_PROBED_PAGES = 5
_NO_TITLE = re.compile(
    r"\W*(?:untitled|anonymous|unknown|no title|none|null|title|document\d*|slide ?\d*"
    r"|microsoft (?:word|powerpoint|excel)(?: - (?:document|dokument|presentation|book|mappe)\d*)?)\W*\d*\W*",
    re.IGNORECASE,
)
_MADE_BY = re.compile(r"^microsoft (?:word|powerpoint|excel)\s+-\s+", re.IGNORECASE)


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
    pages: list[str | None] = list(_page_texts(document, forms))
    texts = join_lines([page or "" for page in pages])
    counts = {
        "pages_without_text": sum(page is not None and not page.strip() for page in pages),
        "pages_unreadable": sum(page is None for page in pages),
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


def _page_texts(document: pypdfium2.PdfDocument, forms: Forms) -> Iterator[str | None]:
    """The text of each page; none for a page that pdfium cannot load."""
    n_pages = len(document)
    probed = range(0, n_pages, max(1, n_pages // _PROBED_PAGES))
    gaps = any(_has_lost_spaces(document, number) for number in probed)
    for number in range(n_pages):
        try:
            page = document[number]
        except pypdfium2.PdfiumError:
            yield None
            continue
        try:
            yield _page_text(page, forms, gaps=gaps)
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


def _page_text(page: pypdfium2.PdfPage, forms: Forms, *, gaps: bool) -> str:
    text_page = page.get_textpage()
    try:
        lines = forms.lines(page, text_page)
        text = PageText(text_page).mended(gaps=gaps)
    finally:
        text_page.close()
    return "\n".join((text, *lines)) if lines else text


def real_title(title: str) -> str:
    """The title that a person gave, or an empty string where a program filled it in."""
    title = _MADE_BY.sub("", title.strip())
    return "" if _NO_TITLE.fullmatch(title) else title


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
