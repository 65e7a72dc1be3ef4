"""Reader of XML: documents such as DocBook and TEI as Markdown, data as records of ``path: value``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.entities import html5
from xml.etree import ElementTree as ET

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.packages import local
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

_ENTITY = re.compile(rb"&([A-Za-z][\w.-]{1,60});")
_DECLARED = re.compile(rb"<!ENTITY\s+([A-Za-z][\w.-]{0,60})\s+(SYSTEM|PUBLIC)?")
_HTML = {name.removesuffix(";"): character for name, character in html5.items()}
_OF_XML = frozenset({b"amp", b"lt", b"gt", b"quot", b"apos"})
_DECLARATION = re.compile(rb"\A\s*<\?xml[^>]{0,300}\?>")
_TITLES = frozenset({"title", "head", "heading", "h", "h1", "h2", "h3", "h4", "h5", "h6"})
_SECTIONS = re.compile(
    r"(?:book|part|chapter|appendix|preface|article|section|sect[1-5]|simplesect|refentry|refsect[1-3]|refsection|"
    r"topic|concept|task|reference|div|div[1-7]|glossary|bibliography|body|sec|page)"
)
_VERBATIM = frozenset({"programlisting", "screen", "literallayout", "synopsis", "codeblock", "pre", "eg", "code-block"})
_BLOCKS = re.compile(
    r"para|p|simpara|formalpara|note|tip|warning|caution|important|blockquote|table|informaltable|row|tr|itemizedlist|"
    r"orderedlist|listitem|item|list|ul|ol|li|varlistentry|dt|dd|entry|cell|td|figure|example|bookinfo|info|l|lg|ab|"
    r"quote|abstract"
)
_ITEMS = frozenset({"listitem", "item", "li"})
_ROWS = frozenset({"row", "tr"})
_MAX_PATH_CHARS = 200


def read_xml(data: bytes, choices: Choices) -> RawText:
    """The text of all elements.

    Raises:
        LimitExceededError: its entities multiply.
        ParseError: it is not XML; the message has line and column.
    """
    notes: dict[str, int | str] = {}
    root = _parsed(data, choices, notes)
    title = next((_line(each) for each in root.iter() if local(_tag(each)) in _TITLES), "")
    if _is_document(root):
        return RawText(["\n\n".join(_document(root, 0))], "markdown", {"title": title}, notes)
    records = ["\n".join(_facts(child, local(_tag(child)))) for child in _records(root)]
    own = "\n".join(f"{local(name)}: {value}" for name, value in root.attrib.items() if _is_word(name, value))
    return RawText(["\n\n".join(record for record in [own, *records] if record)], "records")


def _parsed(data: bytes, choices: Choices, notes: dict[str, int | str]) -> ET.Element:
    try:
        try:
            return _tree(data, data, notes)
        except (ET.ParseError, ValueError, LookupError):
            # Entities of HTML or of a DTD without this DTD, or an encoding that expat does not know.
            text = _DECLARATION.sub(b"", decode(data, choices)[0].encode("utf-8", "replace"))
            declared = {found[1] for found in _DECLARED.finditer(text)}
            text = _ENTITY.sub(lambda entity: _character(entity, declared, notes), text)
            try:
                return _tree(text, text, notes)
            except ET.ParseError:
                if b"<!DOCTYPE" in text:
                    raise
                return _tree(b"<fragments>" + text + b"</fragments>", b"", notes)  # one of several in a file
    except (ET.ParseError, ValueError, LookupError) as error:
        if "amplification" in str(error):
            raise LimitExceededError("declares entities that multiply", hint="leave it out") from error
        raise ParseError(f"is invalid XML: {error}", hint="correct it, or name it .txt") from error


def _tree(data: bytes, declarations: bytes, notes: dict[str, int | str]) -> ET.Element:
    """Parse; entities that the file itself declares are expanded, others files are never opened."""
    # Expat stops when entities multiply (2.4 and later), and opens nothing by itself.
    parser = ET.XMLParser()  # noqa: S314
    parser.entity.update(_HTML)
    for found in _DECLARED.finditer(declarations):
        if found[2]:
            parser.entity[found[1].decode()] = ""
            notes["other_files_left_out"] = int(notes.get("other_files_left_out", 0)) + 1
    parser.feed(data)
    return parser.close()


def _character(entity: re.Match[bytes], declared: set[bytes], notes: dict[str, int | str]) -> bytes:
    name = entity[1]
    if name in _OF_XML or name in declared:
        return entity[0]
    if known := _HTML.get(name.decode()):
        return known.encode()
    notes["unknown_entities"] = int(notes.get("unknown_entities", 0)) + 1
    return b"&amp;" + name + b";"


def _tag(element: ET.Element) -> str:
    return element.tag if isinstance(element.tag, str) else ""


def _is_document(root: ET.Element) -> bool:
    """Whether elements stand between words, or have names of texts."""
    for i, element in enumerate(root.iter()):
        if local(_tag(element)) in ("para", "p", "simpara", "programlisting", "screen", "l", "ab"):
            return True
        if any((child.tail or "").strip() for child in element) and i < 100_000:
            return True
    return False


def _line(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _document(element: ET.Element, depth: int) -> Iterator[str]:
    """Blocks of Markdown."""
    name = local(_tag(element))
    deeper = depth + (_SECTIONS.fullmatch(name) is not None)
    inline: list[str] = [element.text or ""]
    for child in element:
        kind = local(_tag(child))
        if kind in _TITLES and not _BLOCKS.fullmatch(kind):
            yield from _flushed(inline)
            if words := _line(child):
                yield f"{'#' * min(6, max(1, deeper))} {words}"
        elif kind in _VERBATIM:
            yield from _flushed(inline)
            yield "```\n" + "".join(child.itertext()).strip("\n") + "\n```"
        elif kind in _ROWS:
            yield from _flushed(inline)
            yield " | ".join(_line(cell) for cell in child)
        elif _is_block(child, kind):
            yield from _flushed(inline)
            mark = "- " if kind in _ITEMS else ""
            for block in _document(child, deeper):
                yield mark + block
                mark = ""
        elif kind:
            inline.append("".join(child.itertext()))
        inline.append(child.tail or "")
    yield from _flushed(inline)


def _is_block(child: ET.Element, kind: str) -> bool:
    return bool(_BLOCKS.fullmatch(kind)) or _SECTIONS.fullmatch(kind) is not None or any(map(_has_blocks, child.iter()))


def _has_blocks(element: ET.Element) -> bool:
    kind = local(_tag(element))
    return kind in _VERBATIM or kind in _TITLES or bool(_BLOCKS.fullmatch(kind) or _SECTIONS.fullmatch(kind))


def _flushed(inline: list[str]) -> Iterator[str]:
    words = " ".join("".join(inline).split())
    inline.clear()
    if words:
        yield words


def _records(root: ET.Element) -> list[ET.Element]:
    """Children of the first element that has more than one."""
    while len(root) == 1 and len(root[0]):
        root = root[0]
    return list(root)


def _facts(element: ET.Element, path: str) -> Iterator[str]:
    """Lines ``path: value`` of an element's attributes, text and children."""
    for name, value in element.attrib.items():
        if _is_word(name, value):
            yield f"{path}.{local(name)}: {value.strip()}"
    if words := " ".join((element.text or "").split()):
        yield f"{path}: {words}"
    for child in element:
        if kind := local(_tag(child)):
            yield from _facts(child, f"{path}.{kind}"[-_MAX_PATH_CHARS:])


def _is_word(name: str, value: str) -> bool:
    return bool(value.strip()) and not name.startswith("{http://www.w3.org/2001/XMLSchema-instance}")
