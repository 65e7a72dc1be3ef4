"""What was typed into a PDF page: values of form fields, and annotations that a person sees."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

_HIDDEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_TYPED = (pdfium.FPDF_FORMFIELD_TEXTFIELD, pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX)
_TICKED = (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON)
# Their contents say what the page shows already, or what nobody sees.
_NO_NOTE = (pdfium.FPDF_ANNOT_LINK, pdfium.FPDF_ANNOT_POPUP, pdfium.FPDF_ANNOT_WIDGET, pdfium.FPDF_ANNOT_UNKNOWN)
_PASSWORD = 1 << 13
_PLAIN_TICKS = ("", "yes", "on", "1", "true", "checked")
_MAX_ANNOTATIONS = 10_000
_MAX_BYTES = 2 * 1024 * 1024


class Forms:
    """Form fields and annotations of a document; make it before its pages are loaded."""

    def __init__(self, document: pypdfium2.PdfDocument) -> None:
        kind = document.get_formtype()
        self.is_xfa = kind in (pdfium.FORMTYPE_XFA_FULL, pdfium.FORMTYPE_XFA_FOREGROUND)
        config = pdfium.FPDF_FORMFILLINFO(version=2)
        if kind != pdfium.FORMTYPE_NONE:
            document.init_forms(config)
        self._form = document.formenv

    def lines(self, page: pypdfium2.PdfPage, text: pypdfium2.PdfTextPage) -> list[str]:
        """One line for each value and note of a page that its own text does not have, in their order there."""
        found: dict[str, None] = {}
        for i in range(min(pdfium.FPDFPage_GetAnnotCount(page), _MAX_ANNOTATIONS)):
            annotation = pdfium.FPDFPage_GetAnnot(page, i)
            if not annotation:
                continue
            try:
                if not pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
                    found.update(dict.fromkeys(self._lines(annotation, text)))
            finally:
                pdfium.FPDFPage_CloseAnnot(annotation)
        return list(found)

    def _lines(self, annotation: Any, text: pypdfium2.PdfTextPage) -> Iterator[str]:
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        if kind == pdfium.FPDF_ANNOT_WIDGET and self._form:
            value = self._value(annotation)
            if value and not _is_drawn(annotation, value, text):
                label = self._label(annotation)
                yield f"{label}: {value}" if label else value
        elif kind not in _NO_NOTE:
            contents = _string(lambda *room: pdfium.FPDFAnnot_GetStringValue(annotation, b"Contents", *room))
            if contents and not _is_drawn(annotation, contents, text):
                yield contents if kind == pdfium.FPDF_ANNOT_FREETEXT else f"Note: {contents}"

    def _value(self, annotation: Any) -> str:
        kind = pdfium.FPDFAnnot_GetFormFieldType(self._form, annotation)
        if kind in _TYPED:
            if kind == pdfium.FPDF_FORMFIELD_TEXTFIELD:
                flags = pdfium.FPDFAnnot_GetFormFieldFlags(self._form, annotation)
                if flags & _PASSWORD:
                    return ""
            return _string(lambda *room: pdfium.FPDFAnnot_GetFormFieldValue(self._form, annotation, *room))
        if kind in _TICKED and pdfium.FPDFAnnot_IsChecked(self._form, annotation):
            tick = _string(lambda *room: pdfium.FPDFAnnot_GetFormFieldExportValue(self._form, annotation, *room))
            return "yes" if tick.lower() in _PLAIN_TICKS else tick
        return ""

    def _label(self, annotation: Any) -> str:
        label = _string(lambda *room: pdfium.FPDFAnnot_GetFormFieldAlternateName(self._form, annotation, *room))
        if label:
            return label
        name = _string(lambda *room: pdfium.FPDFAnnot_GetFormFieldName(self._form, annotation, *room))
        return name.rpartition(".")[2].partition("[")[0]


def _is_drawn(annotation: Any, value: str, text: pypdfium2.PdfTextPage) -> bool:
    """Whether the page itself has this text in the place of the annotation, as after a form was flattened."""
    rect = pdfium.FS_RECTF()
    if not pdfium.FPDFAnnot_GetRect(annotation, ctypes.byref(rect)):
        return False
    drawn: str = text.get_text_bounded(rect.left, rect.bottom, rect.right, rect.top)
    return "".join(value.split()) in "".join(drawn.split())


def _string(get: Callable[[Any, int], int]) -> str:
    """A string from a function of pdfium that fills a buffer of UTF-16 and returns its length in bytes."""
    n_bytes = get(None, 0)
    if not 2 < n_bytes <= _MAX_BYTES:
        return ""
    buffer = (ctypes.c_ushort * (n_bytes // 2 + 1))()
    get(buffer, n_bytes)
    return bytes(buffer)[: n_bytes - 2].decode("utf-16-le", errors="ignore").strip("\0 \t\r\n")
