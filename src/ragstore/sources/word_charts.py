"""Text of charts and diagrams (SmartArt) in Office documents."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from ragstore.sources.word_xml import below, child, kind, value

_MAX_POINTS = 10_000


def chart(root: ET.Element) -> str:
    """A chart as a table: its title, a row for each category, a column for each series."""
    words = [_words(each) for each in below(root, "c:title", "cx:title")]
    title = "; ".join(filter(None, words))
    series = list(below(root, "c:ser"))
    names = [" ".join(_points(child(each, "c:tx"))) or f"series {i}" for i, each in enumerate(series, 1)]
    categories = _labels(
        next((found for each in series if (found := _either(each, "c:cat", "c:xVal")) is not None), None)
    )
    columns = [_labels(_either(each, "c:val", "c:yVal")) for each in series]
    keys = sorted({key for column in (categories, *columns) for key in column})[:_MAX_POINTS]
    lines = [f"Chart: {title}" if title else ""]
    if keys:
        cells = [["", *names], *([categories.get(key, ""), *(c.get(key, "") for c in columns)] for key in keys)]
        rows = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]
        lines += ["", rows[0], "|" + " --- |" * len(cells[0]), *rows[1:]]
    elif not series:
        points = [each.text or "" for each in below(root, "cx:pt", "cx:v")][:_MAX_POINTS]
        lines.append(" ".join(dict.fromkeys(filter(None, points))))
    return "\n".join(lines).strip()


def diagram(root: ET.Element) -> str:
    """Texts of a diagram's shapes, each as an item of a list."""
    texts = (_words(each) for each in below(root, "dgm:pt") if child(each, "dgm:t") is not None)
    return "\n".join(f"- {text}" for text in texts if text)


def _words(element: ET.Element) -> str:
    paragraphs = ("".join(each.text or "" for each in below(p, "a:t")) for p in below(element, "a:p"))
    return " ".join(" ".join(paragraphs).split())


def _either(element: ET.Element, *names: str) -> ET.Element | None:
    return next((each for each in element if kind(each) in names), None)


def _labels(element: ET.Element | None) -> dict[int, str]:
    """Texts of the points of a series, by index; the innermost level of several."""
    found: dict[int, str] = {}
    for point in () if element is None else below(element, "c:pt"):
        index = value(point, "idx")
        if index.isdecimal():
            found.setdefault(int(index), " ".join(each.text or "" for each in below(point, "c:v")))
    return found


def _points(element: ET.Element | None) -> list[str]:
    return [] if element is None else [each.text or "" for each in below(element, "c:v")]
