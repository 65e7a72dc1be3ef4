"""Reader of Word documents (docx): headings, paragraphs and tables as Markdown."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any
from xml.etree import ElementTree as ET
from xml.parsers.expat import ExpatError

import mammoth

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.html_pages import html_to_markdown
from ragstore.sources.raw import Choices, RawText

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
_MAX_RATIO = 200
_RATIO_COUNTS_FROM_BYTES = 16 * 1024 * 1024
_MAX_MEMBERS = 20_000
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_MAX_PROPERTIES_BYTES = 1024 * 1024
_DAMAGES = (zipfile.BadZipFile, zlib.error, ExpatError, KeyError, ValueError, EOFError, NotImplementedError)


def read_docx(data: bytes, choices: Choices) -> RawText:  # noqa: ARG001
    """A document's text; images are left out.

    Raises:
        LimitExceededError: it is a zip bomb; detected before anything is unpacked.
        ParseError: it is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _refuse_bomb(archive, len(data))
            title = _title(archive)
        html = mammoth.convert_to_html(io.BytesIO(data), convert_image=mammoth.images.img_element(_no_image)).value
    except _DAMAGES as error:
        raise ParseError(
            "is a damaged Word document", hint="open it in Word or LibreOffice and save it anew", reason=str(error)
        ) from error
    markdown, _ = html_to_markdown(html)
    return RawText([markdown], "markdown", metadata={"title": title})


def _refuse_bomb(archive: zipfile.ZipFile, packed_bytes: int) -> None:
    """Refuse a zip bomb by the sizes in the archive's directory: unpacking a member stops at that size."""
    members = archive.infolist()
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
        # Its size is checked, expat refuses entities that expand without limit, and nothing outside of it is loaded.
        return ET.fromstring(archive.read(member)).findtext(_TITLE) or ""  # noqa: S314
    except ET.ParseError:
        return ""


def _no_image(_image: Any) -> dict[str, str]:
    return {}
