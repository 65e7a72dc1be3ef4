"""Styles and numbering of a Word document: which paragraphs are headings, and the numbers that a person sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from ragstore.sources.word_xml import child, is_on, kind, value

_HEADING_NAME = re.compile(r"heading ?([1-9])$")
_NUMBER = re.compile(r"%([1-9])")
_MAX_LEVEL = 6
_MAX_BASES = 20
_LEVELS = 9
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"))
_ROMAN_ENDS = ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")


@dataclass(frozen=True, slots=True)
class _Level:
    format: str
    text: str
    start: int


class Styles:
    """What the styles of a document say of its paragraphs and runs."""

    def __init__(self, styles: ET.Element | None) -> None:
        found = [] if styles is None else [each for each in styles if kind(each) == "w:style"]
        self._styles = {value(each, "w:styleId"): each for each in found}

    def name(self, style_id: str) -> str:
        """Name of a style, in small letters: ids differ by the language of Word, names of built-in styles don't."""
        return (value(child(self._styles.get(style_id), "w:name")) or style_id).lower()

    def heading_level(self, properties: ET.Element | None) -> int:
        """1 to 6 for a paragraph that is a heading, else 0; titles are of level 1, subtitles of level 2."""
        own = child(properties, "w:outlineLvl")
        levels = [] if own is None else [own]
        style_id = value(child(properties, "w:pStyle"))
        named: list[tuple[str, ET.Element | None]] = [
            (self.name(value(style, "w:styleId")), style) for style in self._chain(style_id)
        ]
        for name, style in named or [(style_id.lower(), None)]:
            if match := _HEADING_NAME.match(name):
                return min(int(match[1]), _MAX_LEVEL)
            if name in ("title", "subtitle"):
                return 1 if name == "title" else 2
            if (level := child(style, "w:pPr", "w:outlineLvl")) is not None:
                levels.append(level)
        # Level 9 is Word's "body text".
        outline = value(levels[0]) if levels else ""
        return min(int(outline) + 1, _MAX_LEVEL) if outline.isdecimal() and int(outline) < _LEVELS else 0

    def is_hidden(self, properties: ET.Element | None, style_tag: str) -> bool:
        """Whether run properties, or the style that they or a paragraph's properties name, hide the text."""
        own = child(properties, "w:vanish") if style_tag == "w:rStyle" else None
        if own is not None:
            return is_on(own)
        for style in self._chain(value(child(properties, style_tag))):
            if (vanish := child(style, "w:rPr", "w:vanish")) is not None:
                return is_on(vanish)
        return False

    def numbering_of(self, properties: ET.Element | None) -> tuple[str, int] | None:
        """Id and level of the list that a paragraph belongs to."""
        chain = [properties, *(child(style, "w:pPr") for style in self._chain(value(child(properties, "w:pStyle"))))]
        level = 0
        for each in chain:
            if (number := child(each, "w:numPr")) is None:
                continue
            if (ilvl := value(child(number, "w:ilvl"))).isdecimal():
                level = min(int(ilvl), _LEVELS - 1)
            if num_id := value(child(number, "w:numId")):
                return None if num_id == "0" else (num_id, level)
        return None

    def _chain(self, style_id: str) -> Iterator[ET.Element]:
        for _ in range(_MAX_BASES):
            style = self._styles.get(style_id)
            if style is None:
                return
            yield style
            style_id = value(child(style, "w:basedOn"))


class Numbering:
    """The numbers of lists and headings, counted as Word does."""

    def __init__(self, numbering: ET.Element | None) -> None:
        self._levels: dict[str, dict[int, _Level]] = {}
        self._lists: dict[str, tuple[str, dict[int, _Level]]] = {}
        self._counts: dict[str, list[int]] = {}
        for each in () if numbering is None else numbering:
            if kind(each) == "w:abstractNum":
                self._levels[value(each, "w:abstractNumId")] = _levels(each)
            elif kind(each) == "w:num":
                abstract, overrides = value(child(each, "w:abstractNumId")), _overrides(each)
                num_id = value(each, "w:numId")
                levels = self._levels.get(abstract, {})
                starts = {
                    n: _Level(level.format, level.text, overrides[n]) for n, level in levels.items() if n in overrides
                }
                self._lists[num_id] = (num_id if starts else abstract, levels | starts)

    def mark(self, num_id: str, level: int) -> str:
        """What stands before the next paragraph of this list: ``-``, or its number as Word shows it."""
        key, levels = self._lists.get(num_id, ("", {}))
        own = levels.get(level)
        if own is None or own.format in ("bullet", "none", ""):
            return "-" if own is None or own.format == "bullet" else ""
        counts = self._counts.setdefault(key, [levels[n].start - 1 if n in levels else 0 for n in range(_LEVELS)])
        counts[level] += 1
        for deeper in range(level + 1, _LEVELS):
            counts[deeper] = levels[deeper].start - 1 if deeper in levels else 0

        def shown(match: re.Match[str]) -> str:
            n = int(match[1]) - 1
            count = counts[n] if n == level else max(counts[n], levels[n].start if n in levels else 1)
            return _number(count, levels[n].format if n in levels else "decimal")

        return _NUMBER.sub(shown, own.text).strip()


def _levels(abstract: ET.Element) -> dict[int, _Level]:
    found = {}
    for each in abstract:
        n = value(each, "w:ilvl")
        if kind(each) == "w:lvl" and n.isdecimal():
            start = value(child(each, "w:start"))
            found[int(n)] = _Level(
                value(child(each, "w:numFmt")) or "decimal",
                value(child(each, "w:lvlText")),
                int(start) if start.isdecimal() else 1,
            )
    return found


def _overrides(number: ET.Element) -> dict[int, int]:
    found = {}
    for each in number:
        n, start = value(each, "w:ilvl"), value(child(each, "w:startOverride"))
        if kind(each) == "w:lvlOverride" and n.isdecimal() and start.isdecimal():
            found[int(n)] = int(start)
    return found


def _number(n: int, format_: str) -> str:
    if format_ in ("lowerLetter", "upperLetter") and n > 0:
        text = chr(ord("a") + (n - 1) % 26) * min((n - 1) // 26 + 1, 8)
    elif format_ in ("lowerRoman", "upperRoman") and 0 < n < 4000:
        text = ""
        for step, letters in _ROMAN:
            text += letters * (n // step)
            n %= step
        text += _ROMAN_ENDS[n]
    else:
        return f"{n:02}" if format_ == "decimalZero" else str(n)
    return text.upper() if format_.startswith("upper") else text
