"""Formats of files: one table of their names, readers and marks, and the format of a file by its real bytes.

A format is a row in ``FORMATS``. One whose bytes can be recognised has rows in the tables of marks below, too; there
stand also the marks of what has no reader, so that it is refused by name.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass

from ragstore.errors import UnsupportedTypeError
from ragstore.sources.mail_heads import begins_message, is_saved_page
from ragstore.sources.raw import DETECTED, Choices

Format = str


@dataclass(frozen=True, slots=True)
class Kind:
    """One format.

    Args:
        reader: module below ``ragstore.sources`` and its function, ``tables.read_table``; imported when needed. Empty
            for containers, of which only the members are read.
        names: suffixes and whole names of its files, lower-case, separated by spaces.
        has_marks: whether its bytes can be recognised; a file of such a name without the marks is read as text.
        extra: the extra of ragstore that installs its reader's library, if ragstore alone does not.
    """

    reader: str
    names: str = ""
    has_marks: bool = False
    extra: str = ""


FORMATS: dict[Format, Kind] = {
    "text": Kind("plain_text.read_text", ".txt .text .nfo .debian"),
    "markdown": Kind("plain_text.read_markdown", ".md .markdown .mdx .mkd .qmd .rmd"),
    "html": Kind("html_pages.read_html", ".html .htm .xhtml .xht"),
    "mhtml": Kind("mails.read_mhtml", ".mhtml .mht", has_marks=True),
    "mail": Kind("mails.read_mail", ".eml", has_marks=True),
    "msg": Kind("", ".msg", has_marks=True),
    "mbox": Kind("", ".mbox", has_marks=True),
    "archive": Kind("", ".zip .tar .tgz .tbz2 .txz .tzst .gz .bz2 .xz .zst", has_marks=True),
    "pdf": Kind("pdf_pages.read_pdf", ".pdf", has_marks=True),
    "docx": Kind("word_documents.read_docx", ".docx .docm .dotx .dotm", has_marks=True),
    "csv": Kind("tables.read_table", ".csv"),
    "tsv": Kind("tables.read_table", ".tsv .tab"),
    "json": Kind("json_values.read_json", ".json .geojson .jsonld .webmanifest"),
    "jsonl": Kind("json_values.read_json_lines", ".jsonl .ndjson"),
    "sheets": Kind("workbooks.read_workbook", ".xlsx .xlsm .xltx .xltm .xlsb .xls .xlt", has_marks=True),
    "slides": Kind("presentations.read_presentation", ".pptx .pptm .potx .potm .ppsx .ppsm", has_marks=True),
    "opendocument": Kind("open_documents.read_open_document", ".odt .ott .ods .ots .odp .otp .odg", has_marks=True),
    "epub": Kind("books.read_epub", ".epub", has_marks=True),
    "rtf": Kind("rich_text.read_rtf", ".rtf", has_marks=True),
    "notebook": Kind("notebooks.read_notebook", ".ipynb"),
    "subtitles": Kind("subtitles.read_subtitles", ".srt .vtt .sbv"),
    "xml": Kind("xml_documents.read_xml", ".xml .docbook .dbk .tei .dita .ditamap .rss .atom .xsd .wsdl .jats .nxml"),
    "code": Kind(
        "source_code.read_code",
        ".py .pyi .pyw .pyx .js .mjs .cjs .jsx .ts .mts .cts .tsx .vue .svelte .java .kt .kts .scala .sc .groovy "
        ".gradle .c .h .cc .cpp .cxx .hh .hpp .hxx .ino .m .mm .cs .fs .fsx .vb .bas .go .rs .swift .dart .zig .nim "
        ".rb .rake .gemspec .php .pl .pm .lua .r .jl .sh .bash .zsh .ksh .fish .ps1 .psm1 .bat .cmd .sql .ddl .proto "
        ".thrift .graphql .gql .tf .hcl .nix .ex .exs .erl .hrl .hs .lhs .ml .mli .clj .cljs .el .lisp .scm .rkt .f "
        ".f90 .f95 .for .pas .adb .ads .v .sv .vhd .vhdl .asm .s .cmake .mk .sol .css .scss .sass .less .awk .tcl "
        ".coffee .bzl makefile gnumakefile dockerfile containerfile jenkinsfile vagrantfile gemfile rakefile "
        "procfile justfile cmakelists.txt",
    ),
    "settings": Kind(
        "source_code.read_settings",
        ".yaml .yml .toml .ini .cfg .conf .properties .editorconfig .desktop .service .timer .socket .reg",
    ),
    "log": Kind("source_code.read_lines", ".log .diff .patch"),
    "outlined": Kind("outlined_texts.read_outlined", ".rst .rest .tex .ltx .org .adoc .asciidoc .textile .pod"),
}
"""Every format that is read, by its name."""

CHOSEN: Format = "chosen"
"""Files whose reader the deployment has chosen; their bytes are not looked at."""

_NAMES: dict[str, Format] = {name: format_ for format_, kind in FORMATS.items() for name in kind.names.split()}
# README, LICENSE, COPYING-LGPL: names without a suffix that are in capitals are texts in every project.
_TEXTS = re.compile(
    r"[A-Z][A-Z0-9_-]{2,}|(?i:readme|changelog|changes|licen[cs]e|copying|copyright|notice|authors|news)"
)

_HEAD_BYTES = 1024
_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL_BYTES = 65_557
_BOM = b"\xef\xbb\xbf"
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MAY_BE_MAIL = ("text", "html", "mhtml", "mail", "mbox")

# A zip archive with a member whose name begins so, or a first member "mimetype" that says so, is of this format.
_ZIP_MEMBERS: tuple[tuple[str, Format], ...] = (
    ("word/document", "docx"),
    ("xl/workbook.", "sheets"),
    ("ppt/presentation.", "slides"),
    ("META-INF/container.xml", "epub"),
    ("content.xml", "opendocument"),
)
_ZIP_TYPES: tuple[tuple[bytes, Format], ...] = (
    (b"application/vnd.oasis.opendocument.", "opendocument"),
    (b"application/epub+zip", "epub"),
)
# An OLE file with a stream of this name is of this format.
_OLE_STREAMS: tuple[tuple[str, Format], ...] = (
    ("Workbook", "sheets"),
    ("Book", "sheets"),
)
# Texts and files that begin with these bytes, white space left out, are of this format.
_TEXT_STARTS: tuple[tuple[bytes, Format], ...] = ((b"{\\rtf", "rtf"),)

# There is no reader for these.
_ZIP_REFUSED = (
    ("visio/", "a Visio drawing"),
    ("AndroidManifest.xml", "an Android program"),
    ("META-INF/MANIFEST.MF", "a Java program"),
)
_CONVERT = "convert it to a type with a reader, or leave it out"
_SAVE_ANEW = "save it in the format of today (docx, pptx), or convert it by 'soffice --headless --convert-to'"
_OLE_REFUSED = (
    ("EncryptedPackage", "an Office document with a password", "save it without a password, or leave it out"),
    ("PowerPoint Document", "an old presentation (ppt)", _SAVE_ANEW),
    ("VisioDocument", "a Visio drawing", _CONVERT),
)
# Other documents may lie in a workbook, so these count only if it is none.
_OLE_REFUSED_LAST = (("WordDocument", "an old Word document (doc)", _SAVE_ANEW),)
# Text can begin with some of these bytes too, so they count only if the head of the file contains a NUL.
_FOREIGN = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"ID3", "an MP3 recording"),
    (b"OggS", "an Ogg recording"),
    (b"RIFF", "a RIFF file (WAV, AVI or WebP)"),
)
_FOREIGN_TEXT = ((b"%!PS", "a PostScript document"),)


def format_named(name: str, choices: Choices = DETECTED) -> Format | None:
    """The format that a file's name promises; None if files of that name are not read.

    The one place that says which names are read: the listing asks it, too.
    """
    base = os.path.basename(name)
    suffix = suffix_of(base)
    if suffix in choices.readers:
        return CHOSEN
    if {suffix, base.lower()} & set(choices.text_suffixes):
        return "text"
    if found := _NAMES.get(base.lower()) or _NAMES.get(suffix):
        return found
    return "text" if not suffix and _TEXTS.fullmatch(base) else None


def suffix_of(name: str) -> str:
    """The suffix of a name, lower-case, with its dot; empty without one."""
    return os.path.splitext(name)[1].lower()


def known_names() -> list[str]:
    """All suffixes and names that are read without a setting, in order."""
    return sorted(_NAMES)


def format_of(data: bytes, name: str, choices: Choices = DETECTED) -> Format:
    """The format of the bytes; the name decides only between kinds of text.

    Raises:
        UnsupportedTypeError: there is no reader for them; the message says what they are.
    """
    named = format_named(name, choices) or "text"
    if named == CHOSEN:
        return CHOSEN
    head = data[:_HEAD_BYTES]
    if head.startswith(_ZIP):
        return _format_of_zip(data, named)
    if head.startswith(_OLE):
        return _format_of_ole(data)
    # Readers of PDF allow other bytes before the mark; a text may also contain the mark.
    if head.lstrip().startswith(b"%PDF-") or (named == "pdf" and b"%PDF-" in head):
        return "pdf"
    for magic, what in _FOREIGN if b"\0" in head else _FOREIGN_TEXT:
        if head.startswith(magic):
            raise UnsupportedTypeError(f"is {what}", hint=_CONVERT)
    if head[4:8] == b"ftyp":
        raise UnsupportedTypeError("is a film or recording (MP4)", hint="leave it out")
    if named in _MAY_BE_MAIL and begins_message(head, is_named_so=named in ("mail", "mhtml")):
        return "mhtml" if named == "mhtml" or is_saved_page(head) else "mail"
    return _format_of_text(head, named)


def _format_of_text(head: bytes, named: Format) -> Format:
    start = head.removeprefix(_BOM).lstrip()
    for mark, format_ in _TEXT_STARTS:
        if start.startswith(mark):
            return format_
    start = start.lower()
    if FORMATS[named].reader.startswith("source_code."):
        return named  # a template or a test may begin as a page does
    if start.startswith((b"<!doctype html", b"<html")) or (start.startswith(b"<?xml") and b"<html" in start):
        return "html"
    # An error page or a note saved as .pdf or .docx is still text worth reading.
    return "text" if FORMATS[named].has_marks else named


def _format_of_zip(data: bytes, named: Format) -> Format:
    # The type of OpenDocument and EPUB files is their first member, which is stored as it is.
    if data[30:38] == b"mimetype":
        for type_, format_ in _ZIP_TYPES:
            if data.startswith(type_, 38):
                return format_
    members = _members(data)
    if members is None:
        # The directory at its end is missing or damaged: the reader that the name promises says so.
        if FORMATS[named].has_marks:
            return named
        raise UnsupportedTypeError("is a damaged zip archive", hint="make it anew, or leave it out")
    if found := _first(members, _ZIP_MEMBERS):
        return found
    what = _first(members, _ZIP_REFUSED) or "a zip archive"
    hint = "unpack it, and name the folder instead" if what == "a zip archive" else _CONVERT
    raise UnsupportedTypeError(f"is {what}", hint=hint)


def _members(data: bytes) -> list[str] | None:
    """Names of an archive's members, from its directory; None if that cannot be read."""
    if _ZIP_END not in data[-_ZIP_TAIL_BYTES:]:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [name.replace("\\", "/") for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return None


def _first(members: list[str], known: Iterable[tuple[str, str]]) -> str | None:
    return next((what for start, what in known if any(name.startswith(start) for name in members)), None)


def _format_of_ole(data: bytes) -> Format:
    def has(stream: str) -> bool:
        # Names of streams are UTF-16 in the directory, padded with NULs.
        return (stream + "\0").encode("utf-16-le") in data

    for stream, what, hint in _OLE_REFUSED:
        if has(stream):
            raise UnsupportedTypeError(f"is {what}", hint=hint)
    if found := next((format_ for stream, format_ in _OLE_STREAMS if has(stream)), None):
        return found
    for stream, what, hint in _OLE_REFUSED_LAST:
        if has(stream):
            raise UnsupportedTypeError(f"is {what}", hint=hint)
    raise UnsupportedTypeError("is an old Office document", hint=_CONVERT)
