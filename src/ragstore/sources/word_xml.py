"""Parts of a Word document's archive: their XML, and the relationships between them."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from xml.etree import ElementTree as ET

_PACKAGE = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
# Namespaces of Word's two dialects, "transitional" and "strict", by the prefix that both get here.
_PREFIXES = {
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main": "w",
    "http://purl.oclc.org/ooxml/wordprocessingml/main": "w",
    "http://schemas.openxmlformats.org/officeDocument/2006/math": "m",
    "http://purl.oclc.org/ooxml/officeDocument/math": "m",
    "http://schemas.openxmlformats.org/drawingml/2006/main": "a",
    "http://purl.oclc.org/ooxml/drawingml/main": "a",
    "http://schemas.openxmlformats.org/drawingml/2006/chart": "c",
    "http://purl.oclc.org/ooxml/drawingml/chart": "c",
    "http://schemas.openxmlformats.org/drawingml/2006/diagram": "dgm",
    "http://purl.oclc.org/ooxml/drawingml/diagram": "dgm",
    "http://schemas.openxmlformats.org/officeDocument/2006/relationships": "r",
    "http://purl.oclc.org/ooxml/officeDocument/relationships": "r",
    "http://schemas.openxmlformats.org/markup-compatibility/2006": "mc",
    "http://schemas.microsoft.com/office/drawing/2014/chartex": "cx",
    "urn:schemas-microsoft-com:vml": "v",
    "urn:schemas-microsoft-com:office:office": "o",
}
_OFF = ("0", "false", "off", "none")


@cache
def short(name: str) -> str:
    """``w:p`` for the name of an element or attribute as ElementTree has it; other namespaces have the prefix ``?``."""
    if not name.startswith("{"):
        return name
    space, _, local = name[1:].rpartition("}")
    return f"{_PREFIXES.get(space, '?')}:{local}"


def kind(element: ET.Element) -> str:
    """Short name of an element."""
    return short(element.tag)


def value(element: ET.Element | None, name: str = "w:val") -> str:
    """An attribute by its short name, or an empty string."""
    if element is not None:
        for key, text in element.attrib.items():
            if short(key) == name:
                return text
    return ""


def child(element: ET.Element | None, *path: str) -> ET.Element | None:
    """The first element below this one on a path of short names."""
    for name in path:
        element = next((each for each in element if kind(each) == name), None) if element is not None else None
    return element


def below(element: ET.Element, *names: str) -> Iterator[ET.Element]:
    """All elements below this one with one of these short names."""
    return (each for each in element.iter() if kind(each) in names)


def is_on(element: ET.Element | None) -> bool:
    """Whether a property that may say ``w:val="0"`` is there and holds."""
    return element is not None and value(element).lower() not in _OFF


class Package:
    """The parts of an archive, found by the types of their relationships."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        # Some programs write other capitals, or backslashes, in the names than in the relationships.
        self._names = {name.replace("\\", "/").lower(): name for name in archive.namelist()}
        self.n_left_out = 0
        """Parts that are missing or damaged, other than the document itself."""

    def main_part(self) -> str:
        """Name of the document's own part.

        Raises:
            KeyError: there is none.
        """
        for _, type_, target in self._relationships(""):
            if type_.endswith("/officeDocument") and self._has(target):
                return target
        if not self._has("word/document.xml"):
            raise KeyError("word/document.xml")
        return "word/document.xml"

    def root(self, part: str) -> ET.Element:
        """The XML of a part.

        Raises:
            KeyError: there is no such part.
            ParseError: of ElementTree: it is damaged.
        """
        # Its size was checked, expat refuses entities that expand without limit, and nothing outside of it is loaded.
        return ET.fromstring(self._archive.read(self._names[part.lower()]))  # noqa: S314

    def optional_root(self, part: str) -> ET.Element | None:
        """The XML of a part without which the document can be read; a missing or damaged one is counted."""
        try:
            return self.root(part)
        except (KeyError, ValueError, ET.ParseError, zipfile.BadZipFile, zlib.error):
            self.n_left_out += 1
            return None

    def targets(self, part: str) -> dict[str, str]:
        """Names of the parts that a part refers to, by the ids of the relationships."""
        return {id_: target for id_, _, target in self._relationships(part)}

    def part_related(self, part: str, type_: str) -> str:
        """Name of the first part with a relationship of this type, e.g. ``styles``, or an empty string."""
        found = (target for _, each, target in self._relationships(part) if each.endswith(f"/{type_}"))
        return next(found, "")

    def related(self, part: str, type_: str) -> ET.Element | None:
        """The XML of the first part with a relationship of this type."""
        target = self.part_related(part, type_)
        return self.optional_root(target) if target else None

    def _has(self, part: str) -> bool:
        return part.lower() in self._names

    def _relationships(self, part: str) -> list[tuple[str, str, str]]:
        folder, name = posixpath.split(part)
        rels = posixpath.join(folder, "_rels", f"{name}.rels")
        if not self._has(rels):
            return []
        found = []
        for each in self.root(rels).iter(_PACKAGE):
            target = each.get("Target", "").replace("\\", "/")
            path = target.lstrip("/") if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))
            if each.get("TargetMode") != "External":
                found.append((each.get("Id", ""), each.get("Type", ""), path))
        return found
