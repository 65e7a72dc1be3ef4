"""Markdown of an HTML page: its elements as a browser's parser sees them, written as blocks with words in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

# Of the HTML standard's rendering section: what begins and ends a line.
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "caption", "center", "col", "colgroup", "dd",
    "details", "dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form",
    "frameset", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "html", "legend", "li", "listing",
    "main", "menu", "nav", "ol", "p", "plaintext", "pre", "search", "section", "summary", "table", "tbody",
    "td", "tfoot", "th", "thead", "tr", "ul", "xmp",
))  # fmt: skip
_SKIPPED = frozenset((
    "script", "style", "noscript", "template", "iframe", "object", "embed", "applet", "canvas", "select", "datalist",
    "input", "meter", "progress", "head", "rp", "annotation", "annotation-xml",
))  # fmt: skip
_LISTS = frozenset(("ul", "ol", "menu", "dir"))
_SVG_SKIPPED = frozenset(("title", "desc", "metadata", "defs"))
_NAVIGATION_ROLES = frozenset(("navigation", "search"))
_APART = frozenset(("button", "img", "textarea", "label", "video", "audio", "text", "math", "area"))
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_PREFORMATTED = frozenset(("pre", "listing", "xmp", "plaintext"))
_CODE = frozenset(("code", "kbd", "samp"))
_NOT_IN_CELLS = ", ".join(f"td {tag}, th {tag}" for tag in (*_HEADINGS, *_PREFORMATTED, "table"))
_HIDING = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|opacity\s*:\s*0(?:\.0*)?\s*(?:;|$|!)|"
    r"font-size\s*:\s*0(?:\.0*)?[a-z%]*\s*(?:;|$|!))",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"(?:st|nd|rd|th|er|re|e|ère|ème|me|le|lle|o|a|os|as|TM|SM|R|MC|MD|®|™|©|\W.*)", re.IGNORECASE | re.DOTALL
)
_SPACES = re.compile(r"[ \t\n\r\f]+")
_NO_BREAK = str.maketrans("\xa0\u202f\u2007", "   ")
_TYPED_MARK = re.compile(r"#{1,6}(?:\s|$)|`{3}(?!.*`)|~~~|(?:-{2,}|=+)\s*$")
_TICKS = re.compile("`+")
# Marks of this module inside collected words (code, readings of characters), which are in no text, and NUL.
_OWN_MARKS = re.compile("[\0\ufdd0-\ufdd3]")
# Deeper ones are read without their marks: the room that these take grows with the depth.
_MAX_NESTED = 20
_MAX_COLUMNS = 200
_MAX_SPAN_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class Page:
    """What is on a page.

    Args:
        n_hidden_words: words left out because a browser does not show them.
        n_inline_images: images left out that stand in the page itself.
    """

    markdown: str
    title: str
    n_hidden_words: int
    n_inline_images: int


def markdown_of(html: str, *, with_navigation: bool = False) -> Page:
    """Headings, paragraphs, lists, tables and code of a page as Markdown; of links and images only their words."""
    parser = LexborHTMLParser(_OWN_MARKS.sub("", html))
    root = parser.root
    if root is None:
        return Page("", "", 0, 0)
    title = next((node for node in parser.css("title") if node.parent is None or node.parent.tag != "svg"), None)
    writer = _Writer(with_navigation=with_navigation)
    writer.write(root)
    words = " ".join(title.text().split()) if title else ""
    return Page(writer.markdown(), words, writer.n_hidden_words, writer.n_inline_images)


@dataclass(slots=True)
class _List:
    number: int | None


class _Writer:
    """Writes the blocks of a tree, in one pass over its nodes, without recursion except for the cells of a table."""

    def __init__(self, *, with_navigation: bool) -> None:
        self._with_navigation = with_navigation
        self.n_hidden_words = 0
        self.n_inline_images = 0
        self._lines: list[str] = []
        self._words: list[str] = []
        self._gap = False  # whether an empty line comes before the next block
        self._gap_depth: int | None = None  # of how many lists and quotations this line is a part
        self._prefixes: list[str] = []
        self._marker = ""  # of a list item that has no line yet
        self._lists: list[_List] = []
        self._in_code = 0
        self._in_item_start = False
        self._heading = ""
        self._readings: list[list[str]] = []
        self._layouts: set[int] = set()

    def write(self, root: LexborNode) -> None:
        """Write an element with all that is in it."""
        node: LexborNode | None = root
        while node is not None:
            child = node.first_child if self._enter(node) else None
            if child is not None:
                node = child
                continue
            while node is not None:
                self._leave(node)
                if node.mem_id == root.mem_id:
                    node = None
                elif node.next is not None:
                    node = node.next
                    break
                else:
                    node = node.parent

    def markdown(self) -> str:
        """All that was written."""
        self._end_block()
        return "\n".join(self._lines).strip("\n")

    def _enter(self, node: LexborNode) -> bool:
        """Write what comes before a node's content; returns whether the content is to be visited."""
        tag = node.tag
        if tag == "-text":
            self._text(node.text_content or "")
            return False
        if not tag or tag[0] in "-!" or self._is_left_out(node, tag):
            return tag == "-document"
        if tag in _BLOCKS:
            return self._enter_block(node, tag)
        self._enter_words(node, tag)
        return True

    def _enter_words(self, node: LexborNode, tag: str) -> None:
        if tag in {"br", "textarea"}:
            self._words.append("\n")
        elif tag in {"img", "area"}:
            self._image(node)
        elif tag in _APART:
            self._words.append(" ")
        elif tag in _CODE:
            self._in_code += 1
            self._words.append("\ufdd0" if self._in_code == 1 else "")
        elif tag == "q":
            self._words.append("“")
        elif tag == "rt":
            self._readings.append(self._words)
            self._words = []
        elif tag in {"sup", "sub"}:
            self._raised(node, tag)

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag
        if not tag or tag[0] in "-!" or self._is_left_out(node, tag, counted=True):
            return
        if tag in _BLOCKS:
            self._leave_block(tag)
        elif tag in _CODE:
            self._in_code -= 1
            self._words.append("\ufdd1" if not self._in_code else "")
        elif tag == "q":
            self._words.append("”")
        elif tag in _APART:
            self._words.append(" ")
        elif tag == "rt" and self._readings:
            reading, self._words = "".join(self._words), self._readings.pop()
            self._words.append(f"\ufdd2{reading}\ufdd3")
        elif tag == "ruby":
            self._ruby()

    def _is_left_out(self, node: LexborNode, tag: str, *, counted: bool = False) -> bool:
        if tag in _SKIPPED or (tag in _SVG_SKIPPED and _is_in_svg(node)):
            return True
        attributes = node.attributes
        if tag == "nav" or attributes.get("role") in _NAVIGATION_ROLES:
            return not self._with_navigation
        if tag == "button" and _is_command(node, attributes):
            return True
        if not attributes or not _is_hidden(attributes):
            return False
        if not counted:
            self.n_hidden_words += len(node.text(separator=" ").split())
        return True

    def _enter_block(self, node: LexborNode, tag: str) -> bool:
        self._end_block()
        if tag in _PREFORMATTED:
            self._write_code(_exact_text(node))
            return False
        if tag == "table":
            return self._enter_table(node)
        if tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag in _LISTS:
            start = node.attributes.get("start") or "1"
            self._gap = not self._lists
            self._lists.append(
                _List(int(start) if start.isdigit() and len(start) < 9 else 1) if tag == "ol" else _List(None)
            )
        elif tag == "li":
            self._enter_item()
        elif tag == "blockquote":
            self._gap, self._gap_depth = True, len(self._prefixes)
            self._push("> ")
        elif tag == "dd":
            self._gap = False
            self._words.append(": ")
        elif tag not in {"tr", "tbody", "thead", "tfoot", "colgroup", "col"}:
            self._gap = self._gap or not self._in_item_start
        return True

    def _leave_block(self, tag: str) -> None:
        if tag == "dd" and self._words and "".join(self._words).strip() == ":":
            self._words.clear()
        self._end_block()
        if tag in _HEADINGS:
            self._heading, self._gap = "", True
        elif tag in _LISTS:
            if self._lists:
                self._lists.pop()
            self._gap = not self._lists
        elif tag == "li":
            self._marker = ""
            self._pop()
            self._gap = False
        elif tag == "blockquote":
            self._pop()
            self._gap = True
        elif tag != "dt":
            self._gap = True

    def _enter_item(self) -> None:
        number = self._lists[-1].number if self._lists else None
        if number is not None:
            self._lists[-1].number = number + 1
        self._marker = "- " if number is None else f"{number}. "
        self._in_item_start = True
        self._push(" " * len(self._marker))

    def _push(self, prefix: str) -> None:
        self._prefixes.append(prefix if len(self._prefixes) < _MAX_NESTED else "")

    def _pop(self) -> None:
        if self._prefixes:
            self._prefixes.pop()

    def _text(self, text: str) -> None:
        self._words.append(_SPACES.sub(" ", text))

    def _image(self, node: LexborNode) -> None:
        attributes = node.attributes
        self.n_inline_images += (attributes.get("src") or "").lstrip()[:5].lower() == "data:"
        self._words.append(f" {attributes.get('alt') or ''} ")

    def _raised(self, node: LexborNode, tag: str) -> None:
        before = "".join(self._words[-1:])[-1:]
        inside = node.text().strip()
        if not before.isalnum() or not inside:
            return
        if tag == "sup" and not _ORDINAL.fullmatch(inside):
            self._words.append("^")
        elif tag == "sub" and not inside[0].isdigit() and inside[0].isalpha():
            self._words.append("_")

    def _ruby(self) -> None:
        """Put the readings of a word's characters after the whole word, so that it stays one word."""
        text = "".join(self._words)
        readings = "".join(re.findall("\ufdd2([^\ufdd3]*)\ufdd3", text)).strip()
        base = re.sub("\\s*\ufdd2[^\ufdd3]*\ufdd3\\s*", "", text)
        self._words = [base.rstrip() + f"({readings})" if readings else base]

    def _end_block(self) -> None:
        """Write the words that were collected as one block."""
        if not self._words:
            return
        text, self._words = "".join(self._words), []
        if not text.isascii():
            text = text.translate(_NO_BREAK)
        lines = [line for line in (_SPACES.sub(" ", line).strip() for line in text.split("\n")) if line]
        if not lines:
            return
        if self._heading:
            lines = [self._heading + _coded(" ".join(lines))]
        else:
            lines = [_escaped(_coded(line)) for line in lines]
        self._put(lines)

    def _write_code(self, text: str) -> None:
        if not text.strip():
            return
        longest = max(map(len, _TICKS.findall(text)), default=0)
        fence = "`" * max(3, longest + 1)
        self._gap = True
        self._put([fence, *text.strip("\n").rstrip().split("\n"), fence])
        self._gap = True

    def _put(self, lines: list[str]) -> None:
        """Append lines below the marks of the lists and quotations around them."""
        prefix = "".join(self._prefixes)
        first = "".join(self._prefixes[:-1]) + (self._prefixes[-1] and self._marker) if self._marker else prefix
        if self._gap and self._lines:
            depth = len(self._prefixes) - bool(self._marker) if self._gap_depth is None else self._gap_depth
            self._lines.append("".join(self._prefixes[:depth]).rstrip())
        self._lines.append(first + lines[0])
        self._lines.extend((prefix + line).rstrip() if not line else prefix + line for line in lines[1:])
        self._marker, self._gap, self._gap_depth, self._in_item_start = "", False, None, False

    def _enter_table(self, node: LexborNode) -> bool:
        """Write a table as rows; returns whether it only serves the layout, so that its content is to be visited."""
        self._gap = True
        if node.mem_id not in self._layouts and (found := node.css_first(_NOT_IN_CELLS)):
            self._mark_layouts(found)
        captions: list[LexborNode] = []
        rows = list(_rows(node, captions))
        if node.mem_id in self._layouts or len(rows) < 2 or all(_n_cells(row) < 2 for row in rows):
            return True
        for caption in captions:
            self._words.append(self._cell(caption).replace("\\|", "|"))
            self._end_block()
            self._gap = True
        grid = [cells for cells in _grid(rows, self._cell) if any(cells)]
        width = max(map(len, grid), default=0)
        if grid:
            lines = ["| " + " | ".join(cells + [""] * (width - len(cells))) + " |" for cells in grid]
            self._put([lines[0], "| " + " | ".join(["---"] * width) + " |", *lines[1:]])
        self._gap = True
        return False

    def _mark_layouts(self, found: LexborNode) -> None:
        """All tables around an element that no cell can hold serve the layout."""
        node = found.parent
        while node is not None:
            if node.tag == "table":
                if node.mem_id in self._layouts:
                    return
                self._layouts.add(node.mem_id)
            node = node.parent

    def _cell(self, node: LexborNode) -> str:
        inside = _Writer(with_navigation=self._with_navigation)
        inside._layouts = self._layouts
        inside.write(node)
        self.n_hidden_words += inside.n_hidden_words
        self.n_inline_images += inside.n_inline_images
        return " ".join(inside.markdown().split()).replace("|", "\\|")


def _grid(rows: list[LexborNode], cell_text: Callable[[LexborNode], str]) -> list[list[str]]:
    """Texts of the cells, shape (n_rows, at most n_columns); one of several rows or columns stands at its first."""
    grid: list[list[str]] = []
    taken: dict[int, int] = {}  # column → number of rows, with this one, that a cell from above reaches into
    for row in rows:
        texts: list[str] = []
        column = 0
        following: dict[int, int] = {}
        for cell in _children(row, ("td", "th")):
            while taken.get(column, 0) > 0:
                texts.append("")
                column += 1
            if column >= _MAX_COLUMNS:
                break
            wide = min(_span(cell, "colspan"), _MAX_COLUMNS - column)
            down = _span(cell, "rowspan")
            texts += [cell_text(cell), *[""] * (wide - 1)]
            following.update(dict.fromkeys(range(column, column + wide), down))
            column += wide
        taken = {at: n - 1 for at, n in {**taken, **following}.items() if n > 1}
        grid.append(texts)
    return _without_empty_columns(grid)


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    width = max(map(len, rows), default=0)
    used = [at for at in range(width) if any(at < len(row) and row[at] for row in rows)]
    return [[row[at] for at in used if at < len(row)] for row in rows]


def _rows(table: LexborNode, captions: list[LexborNode]) -> Iterator[LexborNode]:
    for child in _children(table):
        if child.tag == "caption":
            captions.append(child)
        elif child.tag == "tr":
            yield child
        elif child.tag in {"thead", "tbody", "tfoot"}:
            yield from _children(child, ("tr",))


def _children(node: LexborNode, tags: tuple[str, ...] = ()) -> Iterator[LexborNode]:
    child = node.first_child
    while child is not None:
        if not tags or child.tag in tags:
            yield child
        child = child.next


def _n_cells(row: LexborNode) -> int:
    return sum(1 for _ in _children(row, ("td", "th")))


def _span(cell: LexborNode, name: str) -> int:
    value = (cell.attributes.get(name) or "1").strip()
    return min(int(value), _MAX_SPAN_CELLS) if value.isdigit() and len(value) < 9 and int(value) > 0 else 1


def _exact_text(node: LexborNode) -> str:
    """Text of preformatted content, with its line breaks and spaces as they are."""
    pieces: list[str] = []
    for each in node.traverse(include_text=True):
        if each.tag == "-text":
            if each.parent is None or each.parent.tag not in {"script", "style"}:
                pieces.append(each.text_content or "")
        elif each.tag == "br":
            pieces.append("\n")
        elif each.tag == "img":
            pieces.append(each.attributes.get("alt") or "")
        elif each.tag in _BLOCKS and each.mem_id != node.mem_id and pieces and not pieces[-1].endswith("\n"):
            pieces.append("\n")
    return "".join(pieces).replace("\xa0", " ")


def _coded(text: str) -> str:
    """Text with the marks of code, outside of the spaces next to it."""
    if "\ufdd0" not in text and "\ufdd1" not in text:
        return text
    text = re.sub("\ufdd0([^\ufdd0\ufdd1]*)\ufdd1", _code_span, text)
    return _SPACES.sub(" ", text.replace("\ufdd0", "").replace("\ufdd1", ""))


def _escaped(line: str) -> str:
    """Words that would be a mark of Markdown as words."""
    return "\\" + line if line[:1] in "#`~-=" and _TYPED_MARK.match(line) else line


def _code_span(match: re.Match[str]) -> str:
    inside = match[1].strip()
    if not inside:
        return match[1]
    ticks = "`" * (1 + max(map(len, _TICKS.findall(inside)), default=0))
    before, after = match[1][: -len(match[1].lstrip())], match[1][len(match[1].rstrip()) :]
    gap = " " if len(ticks) > 1 else ""
    return f"{before}{ticks}{gap}{inside}{gap}{ticks}{after}"


def _is_hidden(attributes: dict[str, str | None]) -> bool:
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    if (attributes.get("aria-hidden") or "").lower() == "true":
        return True
    style = attributes.get("style")
    return bool(style) and _HIDING.search(style or "") is not None


def _is_command(node: LexborNode, attributes: dict[str, str | None]) -> bool:
    """Whether a button does something, while others are the visible part of what they open."""
    kind = (attributes.get("type") or "").lower()
    if kind in {"submit", "reset"}:
        return True
    if kind or "aria-expanded" in attributes or "aria-controls" in attributes:
        return False
    around = node.parent
    for _ in range(50):
        if around is None:
            break
        if around.tag == "form":
            return True
        around = around.parent
    return False


def _is_in_svg(node: LexborNode) -> bool:
    around = node.parent
    for _ in range(50):
        if around is None or around.tag == "svg":
            break
        around = around.parent
    return around is not None and around.tag == "svg"
