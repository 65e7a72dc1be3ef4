"""Reader of EPUB books: the chapters in reading order, as Markdown."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import urldefrag
from xml.etree import ElementTree as ET

from ragstore.errors import ParseError
from ragstore.sources.html_pages import read_html
from ragstore.sources.packages import Package, joined, local, opened
from ragstore.sources.raw import Choices, RawText

_PAGES = ("application/xhtml+xml", "text/html", "text/x-oeb1-document")
_NCX = "application/x-dtbncx+xml"
# Algorithms that only hide fonts.
_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def read_epub(data: bytes, choices: Choices) -> RawText:
    """Each chapter, under its own headings or its name in the table of contents; images are left out.

    Raises:
        LimitExceededError: it is a zip bomb.
        ParseError: it is damaged, or its publisher has encrypted it.
    """
    parts: list[str] = []
    places: list[dict[str, Any]] = []
    notes: dict[str, int | str] = {}
    with opened(data, "EPUB book") as package:
        _refuse_encrypted(package)
        main = _main(package)
        root = package.xml(main)
        items = {item.get("id", ""): item for item in root.iter() if local(item.tag) == "item"}
        names = _names(package, main, items)
        spine = [ref.get("idref", "") for ref in root.iter() if local(ref.tag) == "itemref"]
        for number, id_ in enumerate(spine, 1):
            item = items.get(id_)
            if item is None or "nav" in item.get("properties", "").split() or item.get("media-type") not in _PAGES:
                continue
            member = joined(posixpath.dirname(main), item.get("href", ""))
            if member not in package.names:
                notes["missing_chapters"] = int(notes.get("missing_chapters", 0)) + 1
                continue
            text = "\n\n".join(read_html(package.read(member), choices).parts)
            if text.strip():
                name = names.get(member, "")
                has_heading = not name or text.lstrip().startswith("#")
                parts.append(text if has_heading else f"# {name}\n\n{text}")
                places.append({"part": number})
    return RawText(parts, "markdown", _facts(root), notes, places)


def _main(package: Package) -> str:
    container = package.xml("META-INF/container.xml")
    paths = [each.get("full-path", "") for each in container.iter() if local(each.tag) == "rootfile"]
    return paths[0]


def _facts(root: ET.Element) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for element in root.iter():
        name = {"title": "title", "creator": "author", "language": "language"}.get(local(element.tag))
        if name and (element.text or "").strip():
            facts.setdefault(name, " ".join((element.text or "").split()))
    return facts


def _names(package: Package, main: str, items: dict[str, ET.Element]) -> dict[str, str]:
    """Names of chapters in the table of contents, by member; the first entry of a member counts."""
    names: dict[str, str] = {}
    for item in items.values():
        member = joined(posixpath.dirname(main), item.get("href", ""))
        is_nav = "nav" in item.get("properties", "").split()
        if (not is_nav and item.get("media-type") != _NCX) or member not in package.names:
            continue
        folder = posixpath.dirname(member)
        for href, name in _links(package.xml(member)):
            names.setdefault(joined(folder, urldefrag(href)[0]), name)
    return {member: name for member, name in names.items() if name}


def _links(root: ET.Element) -> list[tuple[str, str]]:
    found = []
    for element in root.iter():
        if local(element.tag) == "a" and element.get("href"):
            found.append((element.get("href", ""), " ".join("".join(element.itertext()).split())))
        elif local(element.tag) == "navPoint":
            label = next((each for each in element if local(each.tag) == "navLabel"), None)
            content = next((each for each in element if local(each.tag) == "content"), None)
            if label is not None and content is not None:
                found.append((content.get("src", ""), " ".join("".join(label.itertext()).split())))
    return found


def _refuse_encrypted(package: Package) -> None:
    name = "META-INF/encryption.xml"
    if name not in package.names:
        return
    methods = [each.get("Algorithm", "") for each in package.xml(name).iter() if local(each.tag) == "EncryptionMethod"]
    if any(method not in _FONTS for method in methods):
        raise ParseError(
            "is a book that its publisher has encrypted", hint="get it without protection", reason="encrypted"
        )
