"""Formats of files, found by their names and by their real bytes."""

from __future__ import annotations

import os
from typing import Literal

from ragstore.errors import UnsupportedTypeError
from ragstore.sources.mail_heads import begins_message, is_saved_page

Format = Literal["text", "markdown", "html", "pdf", "docx", "csv", "tsv", "json", "jsonl", "mhtml", "mail"]
Holder = Literal["msg", "mbox", "archive"]
"""Formats of containers; ``containers`` opens them, and only what is in them is read."""

SUFFIXES: dict[str, Format | Holder] = {
    ".txt": "text",
    ".rst": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".mht": "mhtml",
    ".mhtml": "mhtml",
    ".eml": "mail",
    ".msg": "msg",
    ".mbox": "mbox",
    ".zip": "archive",
    ".tar": "archive",
    ".tgz": "archive",
    ".tbz2": "archive",
    ".txz": "archive",
    ".tzst": "archive",
    ".gz": "archive",
    ".bz2": "archive",
    ".xz": "archive",
    ".zst": "archive",
}

_HEAD_BYTES = 1024
_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL_BYTES = 65_557
_BOM = b"\xef\xbb\xbf"
_MAY_BE_MAIL = ("text", "html", "mhtml", "mail", "mbox")

# There is no reader for files that begin with these bytes. Text can begin with some of them too, so they count only
# if the head of the file contains a NUL.
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
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or encrypted Office document"),
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
_FOREIGN_TEXT = (
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
)


def format_of(data: bytes, name: str) -> Format:
    """The format of the bytes; the name decides only between kinds of text.

    Raises:
        UnsupportedTypeError: there is no reader for them; the message says what they are.
    """
    named = SUFFIXES.get(os.path.splitext(name)[1].lower(), "text")
    head = data[:_HEAD_BYTES]
    if head.startswith(b"PK\x03\x04"):
        return _format_of_zip(data, named)
    # Readers of PDF allow other bytes before the mark; a text may also contain the mark.
    if head.lstrip().startswith(b"%PDF-") or (named == "pdf" and b"%PDF-" in head):
        return "pdf"
    for magic, what in _FOREIGN if b"\0" in head else _FOREIGN_TEXT:
        if head.startswith(magic):
            raise UnsupportedTypeError(f"is {what}", hint="convert it to a type with a reader, or leave it out")
    if head[4:8] == b"ftyp":
        raise UnsupportedTypeError("is a film or recording (MP4)", hint="leave it out")
    if named in _MAY_BE_MAIL and begins_message(head, is_named_so=named in ("mail", "mhtml")):
        return "mhtml" if named == "mhtml" or is_saved_page(head) else "mail"
    start = head.removeprefix(_BOM).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) or (start.startswith(b"<?xml") and b"<html" in start):
        return "html"
    # An error page or a note saved as .pdf or .docx is still text worth reading.
    match named:
        case "pdf" | "docx" | "mhtml" | "mail" | "msg" | "mbox" | "archive":
            return "text"
        case _:
            return named


def _format_of_zip(data: bytes, named: Format | Holder) -> Format:
    # Names of members are not compressed in the archive, so nothing is unpacked here.
    if b"word/document" in data:
        return "docx"
    for member, what in (
        (b"xl/workbook.", "a spreadsheet (xlsx)"),
        (b"ppt/presentation.xml", "a presentation (pptx)"),
        (b"application/epub+zip", "an EPUB book"),
        (b"opendocument", "an OpenDocument file"),
    ):
        if member in data:
            raise UnsupportedTypeError(f"is {what}", hint="convert it to a type with a reader, or leave it out")
    if named == "docx" and _ZIP_END not in data[-_ZIP_TAIL_BYTES:]:
        return "docx"  # a truncated document; its reader reports that
    raise UnsupportedTypeError("is a zip archive", hint="unpack it, and name the folder instead")
