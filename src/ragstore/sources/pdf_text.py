"""Text of a PDF page: pdfium's lines, with what its own rules get wrong mended by the boxes of its characters."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from typing import NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

# Letters written from right to left: Hebrew, Arabic, Syriac, Thaana, NKo, and their presentation forms.
_RTL = r"\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_RTL_WORD = re.compile(f"[{_RTL}]{{2,}}")
_WORD = re.compile(r"\S+")
_LINE_END = re.compile("\r?\n")
_DIGIT = re.compile(r"\d")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
# Parts of the height of a line. A space is a quarter of it, and kerned letters are at most a twentieth apart.
_SPACE_GAP = 0.17
_FAR_GAP = 1.0
_SHARED = 0.4
_RAISED = 0.12
_SMALLER = 0.85
# Of a line whose letters are all set apart nothing can be said.
_MAX_GAPS = 0.25


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        return self.top - self.bottom


class PageText:
    """The characters of a page, in the order in which pdfium reads them."""

    def __init__(self, page: pypdfium2.PdfTextPage) -> None:
        self._page = page
        self._rect = pdfium.FS_RECTF()
        self._ref = ctypes.byref(self._rect)
        self.text: str = page.get_text_range()
        # pdfium counts in UTF-16; a page with characters that take two of these units is left as it is.
        self._is_plain = not _ASTRAL.search(self.text)

    def mended(self, *, gaps: bool) -> str:
        """The text without words outside of the page, and with false line ends and reversed words mended.

        Args:
            gaps: mend lost spaces too, which takes the boxes of all characters.
        """
        if not self._is_plain:
            return self.text
        edits = [*self._outside(), *self._line_ends(), *self._reversed_words(), *(self._lost_spaces() if gaps else ())]
        text: list[str] = []
        last = 0
        for start, end, new in sorted(edits):
            if start >= last:
                text += (self.text[last:start], new)
                last = end
        return "".join((*text, self.text[last:]))

    def n_lost_spaces(self) -> int:
        """How many spaces pdfium did not see."""
        return sum(1 for _ in self._lost_spaces()) if self._is_plain else 0

    def _outside(self) -> Iterator[tuple[int, int, str]]:
        """Words that stand outside of the page, where nobody sees them."""
        inside: str = self._page.get_text_bounded()
        if len("".join(inside.split())) >= len("".join(self.text.split())):
            return
        left, bottom, right, top = self._page.page.get_bbox()
        for match in _WORD.finditer(self.text):
            boxes = [box for i in range(*match.span()) if (box := self._box(i))]
            if boxes and all(b.right < left or b.left > right or b.top < bottom or b.bottom > top for b in boxes):
                yield *match.span(), ""

    def _line_ends(self) -> Iterator[tuple[int, int, str]]:
        """Line ends that only stand around a raised or lowered character: the line goes on after them."""
        for match in _LINE_END.finditer(self.text):
            start, end = match.span()
            if start == 0 or end == len(self.text):
                continue
            before, after = self._box(start - 1), self._box(end)
            if before and after and (between := _between(before, after)) is not None:
                raised = _is_raised(before, after) and _DIGIT.match(self.text, end) and self.text[start - 1].isalnum()
                yield start, end, between or ("^" if raised else "")

    def _reversed_words(self) -> Iterator[tuple[int, int, str]]:
        """Words of right-to-left writing whose letters were stored from left to right."""
        for match in _RTL_WORD.finditer(self.text):
            first, last = self._box(match.start()), self._box(match.end() - 1)
            if (
                first
                and last
                and first.right <= last.left
                and min(first.top, last.top) > max(first.bottom, last.bottom)
            ):
                yield match.start(), match.end(), match.group()[::-1]

    def _lost_spaces(self) -> Iterator[tuple[int, int, str]]:
        start = 0
        for match in _LINE_END.finditer(self.text + "\n"):
            boxes = [self._box(i) for i in range(start, match.start())]
            lost = [start + i + 1 for i in range(len(boxes) - 1) if self._is_apart(start + i, boxes[i], boxes[i + 1])]
            if len(lost) <= _MAX_GAPS * len(boxes):
                yield from ((i, i, " ") for i in lost)
            start = match.end()

    def _is_apart(self, i: int, here: _Box | None, there: _Box | None) -> bool:
        left, right = self.text[i], self.text[i + 1]
        if here is None or there is None or not right.isalnum() or not (left.isalnum() or left in ".,;:!?)"):
            return False
        height = max(here.height, there.height)
        is_line = abs(here.bottom - there.bottom) < height / 2
        # Ideographs are set apart without being words.
        return is_line and there.left - here.right > _SPACE_GAP * height and max(left, right) < "\u2e80"

    def _box(self, i: int) -> _Box | None:
        """Box of a character with its side bearings; none for characters that pdfium has added."""
        i = pdfium.FPDFText_GetCharIndexFromTextIndex(self._page, i)
        if i < 0 or not pdfium.FPDFText_GetLooseCharBox(self._page, i, self._ref):
            return None
        box = _Box(self._rect.left, self._rect.bottom, self._rect.right, self._rect.top)
        return box if box.height > 0 else None


def _between(before: _Box, after: _Box) -> str | None:
    """What is between two characters of one line, nothing or a space; none if the second begins another line."""
    height = max(before.height, after.height)
    shared = min(before.top, after.top) - max(before.bottom, after.bottom)
    gap = (after.left - before.right) / height
    if shared < _SHARED * min(before.height, after.height) or not -_SPACE_GAP < gap < _FAR_GAP:
        return None
    return " " if gap > _SPACE_GAP else ""


def _is_raised(before: _Box, after: _Box) -> bool:
    return after.height < _SMALLER * before.height and after.bottom - before.bottom > _RAISED * before.height
