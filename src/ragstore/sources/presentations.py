"""Reader of presentations (pptx): each slide with its title, texts, tables, diagrams and notes, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from ragstore.sources.packages import Package, local, opened
from ragstore.sources.raw import Choices, RawText

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_CHOICE = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Choice"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TITLES = ("title", "ctrTitle")
# Date, number and footer of a slide are no content of it.
_FURNITURE = ("dt", "sldNum", "ftr", "hdr")
_SPACES = re.compile(r"[ \t\xa0]+")


def read_presentation(data: bytes, choices: Choices) -> RawText:  # noqa: ARG001
    """Slides in their order; hidden ones are read and counted, images are left out.

    Raises:
        LimitExceededError: it is a zip bomb.
        ParseError: it is damaged, or has a password.
    """
    parts: list[str] = []
    places = []
    notes: dict[str, int | str] = {}
    with opened(data, "presentation") as package:
        facts: dict[str, Any] = {**package.facts()}
        slides = _slides(package)
        facts["slides"] = len(slides)
        for number, name in enumerate(slides, 1):
            root = package.xml(name)
            if root.get("show") in ("0", "false"):
                notes["hidden_slides"] = int(notes.get("hidden_slides", 0)) + 1
            text = _slide(package, name, root, number)
            if text:
                parts.append(text)
                places.append({"slide": number})
    return RawText(parts, "markdown", facts, notes, places)


def _slides(package: Package) -> list[str]:
    """Members of the slides, in the order of the presentation."""
    main = next((target for _, (type_, target) in package.relations("").items() if type_ == "officeDocument"), "")
    if main not in package.names:
        main = "ppt/presentation.xml"
    relations = package.relations(main)
    ids = [slide.get(f"{_R}id", "") for slide in package.xml(main).iter(f"{_P}sldId")]
    return [relations[id_][1] for id_ in ids if id_ in relations and relations[id_][1] in package.names]


def _slide(package: Package, name: str, root: ET.Element, number: int) -> str:
    title, blocks = "", []
    for shape in _shapes(root.find(f"{_P}cSld/{_P}spTree")):
        kind = _placeholder(shape)
        if kind in _FURNITURE:
            continue
        if kind in _TITLES and not title:
            title = " ".join(_text(shape).split())
        elif block := _block(package, name, shape):
            blocks.append(block)
    for note in package.related(name, "notesSlide"):
        shapes = _shapes(package.xml(note).find(f"{_P}cSld/{_P}spTree"))
        text = "\n\n".join(_text(shape) for shape in shapes if _placeholder(shape) == "body")
        if text.strip():
            blocks.append(f"Notes: {text.strip()}")
    for comments in package.related(name, "comments"):
        blocks += [f"Comment: {text}" for text in _comments(package.xml(comments))]
    if not title and not blocks:
        return ""
    # Without a heading of its own, a slide would lie under that of the slide before.
    return "\n\n".join([f"# {title or f'Slide {number}'}", *blocks])


def _shapes(tree: ET.Element | None) -> Iterator[ET.Element]:
    """Shapes, those of groups included, in their order in the file."""
    for element in tree if tree is not None else ():
        if element.tag == f"{_P}grpSp":
            yield from _shapes(element)
        elif local(element.tag) == "AlternateContent":
            chosen = element.find(_CHOICE)
            yield from _shapes(chosen if chosen is not None else element.find(_FALLBACK))
        elif element.tag in (f"{_P}sp", f"{_P}graphicFrame", f"{_P}cxnSp"):
            yield element


def _placeholder(shape: ET.Element) -> str | None:
    """Kind of a placeholder, e.g. ``title``; None for another shape."""
    found = shape.find(f"./*/{_P}nvPr/{_P}ph")
    return None if found is None else found.get("type", "obj")


def _block(package: Package, slide: str, shape: ET.Element) -> str:
    if shape.tag != f"{_P}graphicFrame":
        return _text(shape)
    table = shape.find(f".//{_A}tbl")
    if table is not None:
        return _table(table)
    relations = package.relations(slide)
    texts = []
    for element in shape.iter():
        for attribute, value in element.attrib.items():
            if attribute.startswith(_R) and value in relations:
                type_, target = relations[value]
                if target not in package.names:
                    continue
                if type_ == "diagramData":
                    texts += _diagram(package.xml(target))
                elif type_ == "chart":
                    texts += _chart(package.xml(target))
    return "\n".join(texts)


def _text(shape: ET.Element) -> str:
    """Paragraphs of a shape; those with bullets of a deeper level are indented items."""
    return "\n".join(line for line in map(_paragraph, shape.iter(f"{_A}p")) if line.strip())


def _paragraph(paragraph: ET.Element) -> str:
    properties = paragraph.find(f"{_A}pPr")
    level = int(properties.get("lvl", "0")) if properties is not None else 0
    words = "".join(_runs(paragraph))
    return f"{'  ' * min(level - 1, 8)}- {words.strip()}" if level > 0 and words.strip() else words


def _runs(paragraph: ET.Element) -> Iterator[str]:
    for element in paragraph.iter():
        if local(element.tag) == "t":  # of DrawingML, and of equations
            yield _SPACES.sub(" ", element.text or "")
        elif element.tag == f"{_A}br":
            yield "\n"


def _table(table: ET.Element) -> str:
    rows = [
        [" ".join(_text(cell).split()).replace("|", "\\|") for cell in row.iter(f"{_A}tc")]
        for row in table.iter(f"{_A}tr")
    ]
    width = max((len(row) for row in rows), default=0)
    if not width or not any(any(row) for row in rows):
        return ""
    lines = [f"| {' | '.join([*row, *[''] * (width - len(row))])} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _diagram(root: ET.Element) -> list[str]:
    """Texts of a SmartArt diagram; presentation points repeat those of the data, without text."""
    return [line for line in map(_paragraph, root.iter(f"{_A}p")) if line.strip()]


def _chart(root: ET.Element) -> list[str]:
    """Title, series and categories of a chart; its numbers say nothing without their picture."""
    texts = []
    title = next((each for each in root.iter() if local(each.tag) == "title"), None)
    if title is not None and (words := " ".join("".join(_runs(p)) for p in title.iter(f"{_A}p")).strip()):
        texts.append(f"Chart: {words}")
    names = [_cached(series, "tx") for series in root.iter() if local(series.tag) == "ser"]
    categories = next(
        (found for series in root.iter() if local(series.tag) == "ser" and (found := _cached(series, "cat"))), ""
    )
    if any(names):
        texts.append("Series: " + ", ".join(name for name in names if name))
    if categories:
        texts.append(f"Categories: {categories}")
    return texts


def _cached(series: ET.Element, what: str) -> str:
    part = next((each for each in series if local(each.tag) == what), None)
    values = [] if part is None else [each.text or "" for each in part.iter() if local(each.tag) == "v"]
    return ", ".join(value for value in values if value.strip())


def _comments(root: ET.Element) -> Iterator[str]:
    for comment in root.iter():
        if local(comment.tag) == "cm":
            words = " ".join(text.text or "" for text in comment.iter() if local(text.tag) in ("text", "t"))
            if words.strip():
                yield words.strip()
