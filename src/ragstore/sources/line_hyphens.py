"""Hyphens at the ends of lines: which of them only divide a word, decided by the words of the document itself.

A word that was divided is joined (``hyphen-/ation`` is ``hyphenation``), a compound keeps its hyphen (``well-/known``
is ``well-known``). The form that the document has elsewhere wins. Where it has neither, the hyphen stays before a
capital letter or a digit, in names of files and addresses, and in words that begin or end as compounds do; else the
word is joined.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

HYPHEN_MARK = "\ufffe"
"""What pdfium has for a hyphen at the end of a line and for the line end after it."""

_BREAK = re.compile(rf"(?<=\w)(?:{HYPHEN_MARK}(?:\r?\n)?|[-‐]\r?\n)(?=\w)")
# What is looked at to both sides of a break; bounded, so that a file without spaces costs nothing more.
_CONTEXT_CHARS = 120
_LEFT = re.compile(r"(?P<before>\S*?)(?P<word>(?<!\w)(?:\w+[-‐])*\w+)$")
_RIGHT = re.compile(r"\w{1,60}")
_REST = re.compile(rf"{HYPHEN_MARK}(\r?\n)?")
_SOFT = re.compile("\xad(?:\r?\n)?")
_WORD = re.compile(r"[^\W\d_]+(?:[-‐]\w+)*")
# "Vor- und Nachteile": this hyphen stands for the rest of the next word.
_AND = frozenset(
    (
        "und", "oder", "bzw", "sowie", "and", "or", "et", "ou", "e", "o", "y", "u", "en", "of", "och", "og",
    )
)  # fmt: skip
_IN_NAME = re.compile(r"[/\\@_~]|\w[.:=]$|--?$")
_FIRST_PARTS = frozenset(
    (
        "all", "built", "client", "comma", "command", "context", "cost", "cross", "domain", "double", "end",
        "fine", "first", "five", "floating", "four", "full", "half", "hard", "high", "key", "landscape",
        "language", "left", "level", "line", "long", "low", "lower", "machine", "multi", "new", "non", "object",
        "old", "one", "open", "page", "platform", "portrait", "read", "real", "right", "role", "second", "self",
        "server", "short", "side", "single", "state", "system", "text", "third", "three", "time", "top", "two",
        "upper", "user", "well", "word", "zero",
    )
)  # fmt: skip
_LAST_PARTS = frozenset(
    (
        "aware", "based", "benefit", "defined", "dependent", "dimensional", "driven", "free", "independent",
        "level", "like", "negative", "only", "oriented", "related", "separated", "sensitive", "side", "sided",
        "specific", "style", "wide",
    )
)  # fmt: skip
_SUFFIX = re.compile(
    r"(?:able|al|ance|ation|ed|en|ence|er|est|ful|ib|ing|is|ist|it|ive|iz|ly|ment|ness|ous|s?ion|tion|ward|y)\w{0,4}$"
)
_ABBREVIATION_CHARS = 4


class Hyphens:
    """Decides about each hyphen by the words of a document.

    Args:
        pages: all of its text, with ``HYPHEN_MARK`` or a hyphen at line ends.
    """

    def __init__(self, pages: Sequence[str]) -> None:
        self._words: Counter[str] = Counter()
        for page in pages:
            self._words.update(word.replace("‐", "-") for word in _WORD.findall(_whole_words(page).lower()))

    def joined(self, page: str) -> str:
        """The page with each hyphen at a line end resolved, and without the line end."""
        text = _BREAK.sub(self._resolved, _SOFT.sub("", page))
        return _REST.sub(lambda match: "-" + (match[1] or ""), text)

    def _resolved(self, match: re.Match[str]) -> str:
        page, (start, end) = match.string, match.span()
        left = _LEFT.search(page[max(0, start - _CONTEXT_CHARS) : start])
        right = _RIGHT.match(page, end)
        return self.between(left["before"], left["word"], right.group()) if left and right else "-"

    def between(self, before: str, left: str, right: str) -> str:
        """What stands between the two parts of a token: nothing, a hyphen, or a hyphen and a space."""
        low_left, low_right = left.lower().replace("‐", "-"), right.lower()
        if low_right in _AND and self._words[low_left + low_right] == 0:
            return "- "
        return "-" if self._is_compound(before, low_left, low_right, right) else ""

    def _is_compound(self, before: str, left: str, low_right: str, right: str) -> bool:
        compound, joined = self._words[f"{left}-{low_right}"], self._words[left + low_right]
        if compound != joined:
            return compound > joined
        last = left.rpartition("-")[2]
        is_capital = right[0].isupper() and not (right.isupper() and len(last) > _ABBREVIATION_CHARS)
        if is_capital or not right[0].isalpha() or _IN_NAME.search(before) or last[-1].isdigit():
            return True
        is_usual = last in _FIRST_PARTS and not _SUFFIX.match(low_right)
        return "-" in left or is_usual or low_right in _LAST_PARTS


def _whole_words(page: str) -> str:
    """The page without the words at line ends that have a hyphen there: they say nothing about themselves."""
    kept, last = [], 0
    for match in _BREAK.finditer(page):
        left = _LEFT.search(page[max(last, match.start() - _CONTEXT_CHARS) : match.start()])
        kept.append(page[last : match.start() - len(left["word"])] if left else page[last : match.start()])
        right = _RIGHT.match(page, match.end())
        last = right.end() if right else match.end()
    return " ".join((*kept, page[last:]))


def join_lines(pages: Sequence[str]) -> list[str]:
    """The pages with the hyphens at their line ends resolved."""
    if not any(_has_breaks(page) for page in pages):
        return list(pages)
    hyphens = Hyphens(pages)
    return [hyphens.joined(page) if _has_breaks(page) else page for page in pages]


def _has_breaks(page: str) -> bool:
    return any(mark in page for mark in (HYPHEN_MARK, "\xad", "-\n", "-\r\n", "‐\n", "‐\r\n"))
