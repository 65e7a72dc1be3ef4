"""Walk over the body of a Word document: its headings, paragraphs, lists and tables as blocks of Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from ragstore.sources.word_charts import chart, diagram
from ragstore.sources.word_equations import equation
from ragstore.sources.word_styles import Numbering, Styles
from ragstore.sources.word_symbols import symbol
from ragstore.sources.word_xml import Package, below, child, is_on, kind, value

# What a person does not see: deleted text, what a text was moved from, codes of fields, readings above characters.
_UNSEEN = frozenset({"w:del", "w:moveFrom", "w:rPr", "w:pPr", "w:sdtPr", "w:instrText", "w:delText", "w:rt", "w:tblPr"})
_CHARS = {"w:tab": "\t", "w:ptab": "\t", "w:br": "\n", "w:cr": "\n", "w:noBreakHyphen": "-"}
_EQUATION_PROGRAMS = ("equation", "mathtype")
_PAGE_FIELDS = frozenset({"page", "numpages", "sectionpages"})
_MARK = re.compile(r"^(?= {0,3}(?:#{1,6}(?:[ \t]|$)|`{3,}|~{3,}|=+[ \t]*$|-{2,}[ \t]*$))", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n\s*\n")
_SPACES = re.compile(r"[ \t\xa0]*\n[ \t\xa0]*")


@dataclass(slots=True)
class _Field:
    """A field between its begin and its end: first its code, then its result."""

    code: str = ""
    in_result: bool = False


@dataclass(slots=True)
class _Line:
    """Text of a paragraph so far, and what follows it: text boxes, notes, comments."""

    text: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Shared:
    """What the parts of a document have together: lists go on from one to the next.

    Args:
        counts: what was left out, by the names of notes.
    """

    styles: Styles
    numbering: Numbering
    counts: Counter[str] = field(default_factory=Counter)


class Body:
    """Converts one part of a document.

    Args:
        notes: texts of foot- and endnotes and comments by their kinds and ids, e.g. ``("footnote", "2")``.
        is_margin: a header or footer, in which numbers of pages are no text.
    """

    def __init__(
        self,
        package: Package,
        part: str,
        shared: Shared,
        *,
        notes: Mapping[tuple[str, str], str] | None = None,
        is_margin: bool = False,
    ) -> None:
        self._package = package
        self._styles = shared.styles
        self._numbering = shared.numbering
        self._counts = shared.counts
        self._notes = notes or {}
        self._is_margin = is_margin
        self._targets = package.targets(part)
        self._fields: list[_Field] = []
        self._is_hidden_paragraph = False
        self._n_references = 0
        self.first_title = ""
        """Text of the first paragraph of style "Title"."""

    def blocks(self, parent: Iterable[ET.Element]) -> Iterator[str]:
        """Markdown of each block below an element that has paragraphs and tables."""
        for element in parent:
            name = kind(element)
            if name == "w:p":
                yield from self._paragraph(element)
            elif name == "w:tbl":
                yield from self._table(element)
            elif name == "mc:AlternateContent":
                yield from self._alternative(element, lambda each: [*self.blocks(each)])
            elif name == "w:altChunk":
                self._counts["embedded_documents_left_out"] += 1
            elif name == "w:sdt":
                if not self._is_unfilled(element):
                    yield from self.blocks(element)
            elif name not in _UNSEEN and name != "w:sectPr":
                yield from self.blocks(element)

    def _paragraph(self, paragraph: ET.Element) -> Iterator[str]:
        properties = child(paragraph, "w:pPr")
        line = _Line()
        outer, self._is_hidden_paragraph = self._is_hidden_paragraph, self._styles.is_hidden(properties, "w:pStyle")
        self._inline(paragraph, line)
        self._is_hidden_paragraph = outer
        text = _SPACES.sub("\n", "".join(line.text)).strip()
        if text:
            yield self._marked(text, properties)
        yield from line.after

    def _marked(self, text: str, properties: ET.Element | None) -> str:
        """Markdown of a paragraph: a heading, an item of a list, or text that cannot be taken for either."""
        numbering = self._styles.numbering_of(properties)
        mark = self._numbering.mark(*numbering) if numbering else ""
        if level := self._styles.heading_level(properties):
            title = " ".join(text.split())
            if (
                level == 1
                and not self.first_title
                and self._styles.name(value(child(properties, "w:pStyle"))) == "title"
            ):
                self.first_title = title
            return f"{'#' * level} {mark if mark != '-' else ''} {title}".replace("  ", " ")
        if not numbering or not mark:
            return _MARK.sub(r"\\", _BLANK_LINES.sub("\n", text))
        return f"{'  ' * numbering[1]}{mark} {_BLANK_LINES.sub(chr(10), text)}"

    def _inline(self, parent: Iterable[ET.Element], line: _Line) -> None:
        for element in parent:
            name = kind(element)
            if name == "w:r":
                self._run(element, line)
            elif name in ("m:oMath", "m:oMathPara"):
                self._add(line, equation(element).strip())
            elif name == "w:fldSimple":
                if not self._is_page_field(value(element, "w:instr")):
                    self._inline(element, line)
            elif name == "mc:AlternateContent":
                line.text += self._alternative(element, lambda each: self._texts_of(each, line))
            elif name not in _UNSEEN and not (name == "w:sdt" and self._is_unfilled(element)):
                self._inline(element, line)

    def _run(self, run: ET.Element, line: _Line) -> None:
        properties = child(run, "w:rPr")
        is_hidden = self._is_hidden_paragraph or self._styles.is_hidden(properties, "w:rStyle")
        if is_hidden and not _is_on_again(properties):
            self._counts["hidden_words"] += sum(len((t.text or "").split()) for t in below(run, "w:t"))
            return
        for element in run:
            self._piece(element, line)

    def _piece(self, element: ET.Element, line: _Line) -> None:
        """One part of a run."""
        name = kind(element)
        if name == "w:fldChar":
            self._field_char(element, line)
        elif name == "w:instrText" and self._fields and not self._fields[-1].in_result:
            self._fields[-1].code += element.text or ""
        elif name in _UNSEEN or not self._is_shown():
            return
        elif name == "w:t":
            line.text.append(element.text or "")
        elif name in _CHARS:
            line.text.append(_CHARS[name])
        else:
            self._object(element, line)

    def _object(self, element: ET.Element, line: _Line) -> None:
        """One part of a run that is not plain text."""
        match kind(element):
            case "w:sym":
                self._symbol(element, line)
            case "w:footnoteReference" | "w:endnoteReference" | "w:commentReference" as name:
                self._reference(element, name.removeprefix("w:").removesuffix("Reference"), line)
            case "w:drawing" | "w:pict" | "w:object":
                self._drawing(element, line)
            case "mc:AlternateContent":
                line.text += self._alternative(element, lambda each: self._pieces_of(each, line))
            case "w:ruby":
                self._inline(_wrapped(element, "w:rubyBase"), line)
            case "m:oMath":
                self._add(line, equation(element).strip())

    def _add(self, line: _Line, text: str) -> None:
        if self._is_shown():
            line.text.append(text)

    def _symbol(self, element: ET.Element, line: _Line) -> None:
        char = symbol(value(element, "w:font"), value(element, "w:char"))
        self._counts["symbols_left_out"] += not char
        line.text.append(char)

    def _reference(self, element: ET.Element, of: str, line: _Line) -> None:
        text = self._notes.get((of, value(element, "w:id")))
        if text is None:
            return
        if of == "comment":
            line.after.append(text)
            return
        self._n_references += 1
        mark = f"[{self._n_references}]"
        line.text.append(mark)
        line.after.append(f"{mark} {text}")

    def _drawing(self, element: ET.Element, line: _Line) -> None:
        """Text of a drawing: of its boxes after the paragraph, of charts and diagrams too."""
        if (
            value(element.find(".//{urn:schemas-microsoft-com:office:office}OLEObject"), "ProgID")
            .lower()
            .startswith(_EQUATION_PROGRAMS)
        ):
            self._counts["equations_left_out"] += 1
        for each in _outermost(element, {"w:txbxContent", "c:chart", "cx:chart", "dgm:relIds", "v:textpath"}):
            name = kind(each)
            if name == "w:txbxContent":
                fields, self._fields = self._fields, []
                line.after += self.blocks(each)
                self._fields = fields
            elif name == "v:textpath":
                line.after += filter(None, [value(each, "string").strip()])
            else:
                convert = diagram if name == "dgm:relIds" else chart
                target = self._targets.get(value(each, "r:dm" if name == "dgm:relIds" else "r:id"), "")
                root = self._package.optional_root(target) if target else None
                text = convert(root) if root is not None else ""
                if root is None:
                    self._counts["charts_left_out"] += 1
                line.after += filter(None, [text])

    def _field_char(self, element: ET.Element, line: _Line) -> None:
        type_ = value(element, "w:fldCharType")
        if type_ == "begin":
            self._add(line, _form_value(child(element, "w:ffData")))
            self._fields.append(_Field())
        elif self._fields and type_ == "separate":
            self._fields[-1].in_result = True
        elif self._fields and type_ == "end":
            ended = self._fields.pop()
            # Word shows what such a field makes of its code; there is no result in the file.
            self._counts["equations_left_out"] += ended.code.split()[:1] == ["EQ"] and not ended.in_result

    def _is_shown(self) -> bool:
        return all(each.in_result and not self._is_page_field(each.code) for each in self._fields)

    def _is_page_field(self, code: str) -> bool:
        return self._is_margin and (code.lower().split() or [""])[0] in _PAGE_FIELDS

    def _is_unfilled(self, element: ET.Element) -> bool:
        """Whether a content control has only the text that asks to fill it in."""
        if not is_on(child(element, "w:sdtPr", "w:showingPlcHdr")):
            return False
        names = (self._styles.name(value(each)) for each in below(element, "w:rStyle"))
        is_unfilled = any("placeholder" in name for name in names)
        self._counts["controls_unfilled"] += is_unfilled
        return is_unfilled

    def _alternative(self, element: ET.Element, convert: Callable[[ET.Element], list[str]]) -> list[str]:
        """The first of several forms of the same content that has text."""
        for each in element:
            if kind(each) in ("mc:Choice", "mc:Fallback") and (texts := convert(each)):
                return texts
        return []

    def _pieces_of(self, parent: ET.Element, line: _Line) -> list[str]:
        inner = _Line()
        for element in parent:
            self._piece(element, inner)
        line.after += inner.after
        return inner.text or ([""] if inner.after else [])

    def _texts_of(self, parent: ET.Element, line: _Line) -> list[str]:
        inner = _Line()
        self._inline(parent, inner)
        line.after += inner.after
        return inner.text or ([""] if inner.after else [])

    def _table(self, table: ET.Element) -> Iterator[str]:
        rows = self._rows(table)
        n_columns = max(map(len, rows), default=0)
        if n_columns <= 1 or (len(rows) == 1 and sum(map(bool, rows[0])) <= 1):
            # A frame around text, not a table.
            yield from (_MARK.sub(r"\\", cell) for row in rows for cell in row if cell)
            return
        lines = [
            "| " + " | ".join(_in_table(cell) for cell in (*row, *[""] * (n_columns - len(row)))) + " |" for row in rows
        ]
        yield "\n".join([lines[0], "|" + " --- |" * n_columns, *lines[1:]])

    def _rows(self, table: ET.Element) -> list[list[str]]:
        """Texts of the cells that are not all empty, by row; a cell that spans rows is in each of them."""
        rows: list[list[str]] = []
        for row in _wrapped(table, "w:tr"):
            if child(row, "w:trPr", "w:del") is not None:
                continue
            before = value(child(row, "w:trPr", "w:gridBefore"))
            cells = [""] * (min(int(before), _MAX_SPAN) if before.isdecimal() else 0)
            for cell in _wrapped(row, "w:tc"):
                merge = child(cell, "w:tcPr", "w:vMerge")
                text = "\n\n".join(self.blocks(cell))
                if merge is not None and value(merge) != "restart" and rows and len(cells) < len(rows[-1]):
                    text = text or rows[-1][len(cells)]
                span = value(child(cell, "w:tcPr", "w:gridSpan"))
                cells += [text, *[""] * (min(int(span), _MAX_SPAN) - 1 if span.isdecimal() else 0)]
            rows.append(cells)
        return [row for row in rows if any(row)]


_MAX_SPAN = 63


def _is_on_again(properties: ET.Element | None) -> bool:
    """Whether a run shows itself in a paragraph whose style is hidden."""
    own = child(properties, "w:vanish")
    return own is not None and not is_on(own)


def _form_value(form: ET.Element | None) -> str:
    """What a field of a form shows that has no text of its own: a box or the choice from a list."""
    if (box := child(form, "w:checkBox")) is not None:
        state = child(box, "w:checked")
        return "☒" if is_on(state if state is not None else child(box, "w:default")) else "☐"
    if (choices := child(form, "w:ddList")) is None:
        return ""
    entries = [value(each) for each in choices if kind(each) == "w:listEntry"]
    chosen = value(child(choices, "w:result")) or value(child(choices, "w:default")) or "0"
    return entries[int(chosen)] if chosen.isdecimal() and int(chosen) < len(entries) else ""


def _wrapped(parent: ET.Element, name: str) -> Iterator[ET.Element]:
    """Rows of a table or cells of a row, also inside of content controls; deleted ones are not among them."""
    for element in parent:
        if kind(element) == name:
            yield element
        elif kind(element) not in _UNSEEN and kind(element) not in ("w:p", "w:tbl"):
            yield from _wrapped(element, name)


def _outermost(parent: ET.Element, names: set[str]) -> Iterator[ET.Element]:
    """Elements of these names that are in no other of them; of alternatives, only in the first that has any."""
    for element in parent:
        name = kind(element)
        if name in names:
            yield element
        elif name == "mc:AlternateContent":
            yield from next(filter(None, (list(_outermost(each, names)) for each in element)), [])
        else:
            yield from _outermost(element, names)


def _in_table(text: str) -> str:
    r"""Text of a cell in one line: a table in it keeps its words, ``|`` becomes ``\|``."""
    lines = [line for line in text.split("\n") if line.strip(" |-")]
    return " ".join(line.strip().replace(" | ", ", ").strip("| ") for line in lines).replace("|", "\\|")
