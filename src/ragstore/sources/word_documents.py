"""Reader of Word documents (docx, docm, dotx): what a person sees in Word, as Markdown."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.raw import Choices, RawText, real_title
from ragstore.sources.word_body import Body, Shared
from ragstore.sources.word_styles import Numbering, Styles
from ragstore.sources.word_xml import Package, child, is_on, kind, value

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
_MAX_RATIO = 200
_RATIO_COUNTS_FROM_BYTES = 16 * 1024 * 1024
_MAX_MEMBERS = 20_000
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_MAX_PROPERTIES_BYTES = 1024 * 1024
_ENCRYPTED_FLAG = 1
_DAMAGES = (zipfile.BadZipFile, zlib.error, ET.ParseError, KeyError, ValueError, EOFError, NotImplementedError)
_SEPARATORS = ("separator", "continuationSeparator", "continuationNotice")
# A header or footer that has only such words around the number of the page says nothing.
_PAGE_WORDS = re.compile(
    r"(?:page|pages|pg|p|of|seite|von|s|página|pagina|de|di|van|sur|à|strona|z|sida|side|av|af|страница|стр|из|[\W\d_])*",
    re.IGNORECASE,
)


def read_docx(data: bytes, choices: Choices) -> RawText:  # noqa: ARG001
    """A document's text; images are left out, and so is what is hidden or deleted.

    Foot- and endnotes, comments and text boxes follow the paragraph that they belong to; headers and footers stand
    once before and after the sections that have them.

    Raises:
        LimitExceededError: it is a zip bomb; detected before anything is unpacked.
        ParseError: it is damaged or encrypted.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _refuse_bomb(archive, len(data))
            document = _Document(Package(archive))
            blocks = list(document.blocks())
            title = real_title(_title(archive)) or document.title
    except _DAMAGES as error:
        raise ParseError(
            "is a damaged Word document", hint="open it in Word or LibreOffice and save it anew", reason=str(error)
        ) from error
    notes: dict[str, int | str] = {name: n for name, n in sorted(document.counts.items()) if n}
    return RawText(["\n\n".join(blocks)], "markdown", metadata={"title": title}, notes=notes)


class _Document:
    """One document while it is read."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._part = package.main_part()
        self._root = package.root(self._part)
        self._shared = Shared(
            Styles(package.related(self._part, "styles")), Numbering(package.related(self._part, "numbering"))
        )
        self._targets = package.targets(self._part)
        settings = package.related(self._part, "settings")
        self._has_even = settings is not None and is_on(child(settings, "w:evenAndOddHeaders"))
        self._margins: set[str] = set()
        self.counts = self._shared.counts
        self.title = ""

    def blocks(self) -> Iterator[str]:
        """Markdown of each block, with the headers and footers of each section around it."""
        root = child(self._root, "w:body")
        if root is None:
            raise KeyError("w:body")
        body = Body(self._package, self._part, self._shared, notes=dict(self._notes()))
        sections = [each for each in (_section_of(element) for element in root) if each is not None]
        yield from self._around(sections, 0, "w:headerReference")
        n = 0
        for element in root:
            yield from body.blocks((element,))
            if _section_of(element) is not None:
                yield from self._around(sections, n, "w:footerReference")
                n += 1
                yield from self._around(sections, n, "w:headerReference")
        self.title = body.first_title
        if self._package.n_left_out:
            self.counts["damaged_parts"] += self._package.n_left_out

    def _around(self, sections: list[ET.Element], n: int, name: str) -> Iterator[str]:
        """Headers or footers of a section that no section before it had."""
        if n >= len(sections):
            return
        section = sections[n]
        for reference in (each for each in section if kind(each) == name):
            type_ = value(reference, "w:type")
            is_shown = {"first": is_on(child(section, "w:titlePg")), "even": self._has_even}.get(type_, True)
            part = self._targets.get(value(reference, "r:id"))
            root = self._package.optional_root(part) if is_shown and part else None
            if part and root is not None:
                blocks = self._part_blocks(part, root, is_margin=True)
                text = "\n\n".join(block for block in blocks if not _PAGE_WORDS.fullmatch(block))
                if text and text not in self._margins:
                    self._margins.add(text)
                    yield text

    def _part_blocks(self, part: str, root: ET.Element, *, is_margin: bool = False) -> Iterator[str]:
        body = Body(self._package, part, self._shared, is_margin=is_margin)
        return body.blocks(root)

    def _notes(self) -> Iterator[tuple[tuple[str, str], str]]:
        """Texts of footnotes, endnotes and comments, by kind and id."""
        for of in ("footnote", "endnote", "comment"):
            part = self._package.part_related(self._part, f"{of}s")
            root = self._package.optional_root(part) if part else None
            for each in root if part and root is not None else ():
                text = " ".join(" ".join(self._part_blocks(part or "", each)).split())
                if not text or value(each, "w:type") in _SEPARATORS:
                    continue
                author = value(each, "w:author")
                says = f"Comment by {author}: {text}" if author else f"Comment: {text}"
                yield (of, value(each, "w:id")), says if of == "comment" else text


def _section_of(element: ET.Element) -> ET.Element | None:
    """Properties of the section that ends with this block."""
    return element if kind(element) == "w:sectPr" else child(element, "w:pPr", "w:sectPr")


def _refuse_bomb(archive: zipfile.ZipFile, packed_bytes: int) -> None:
    """Refuse what is encrypted, and zip bombs.

    A bomb is known by the sizes in the archive's directory: unpacking a member stops at that size.
    """
    members = archive.infolist()
    if any(member.flag_bits & _ENCRYPTED_FLAG for member in members):
        raise ParseError("is encrypted", hint="save a copy of it without a password", reason="encrypted")
    unpacked = sum(member.file_size for member in members)
    too_dense = unpacked > _RATIO_COUNTS_FROM_BYTES and unpacked > _MAX_RATIO * packed_bytes
    if unpacked > MAX_UNPACKED_BYTES or too_dense or len(members) > _MAX_MEMBERS:
        raise LimitExceededError(
            f"would unpack to {unpacked:,} bytes in {len(members):,} members",
            hint="open it in Word or LibreOffice, remove what is large, and save it anew",
            unpacked=unpacked,
        )


def _title(archive: zipfile.ZipFile) -> str:
    try:
        member = archive.getinfo("docProps/core.xml")
    except KeyError:
        return ""
    if member.file_size > _MAX_PROPERTIES_BYTES:
        return ""
    try:
        # Expat refuses entities that expand without limit.
        return ET.fromstring(archive.read(member)).findtext(_TITLE) or ""  # noqa: S314
    except ET.ParseError:
        return ""
