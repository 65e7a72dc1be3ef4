"""Documents that are zip archives of XML parts: Office Open XML, OpenDocument, EPUB."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.raw import real_title

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
_MAX_RATIO = 200
_RATIO_COUNTS_FROM_BYTES = 16 * 1024 * 1024
_MAX_MEMBERS = 20_000
_DAMAGES = (zipfile.BadZipFile, zlib.error, ET.ParseError, KeyError, ValueError, EOFError, NotImplementedError)
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_AUTHOR = "{http://purl.org/dc/elements/1.1/}creator"


class Package:
    """An open archive whose members are read one by one."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        # Some programs write the separator of Windows.
        self._members = {name.replace("\\", "/"): name for name in archive.namelist()}
        self.names = frozenset(self._members)

    def read(self, name: str) -> bytes:
        """Bytes of a member; ``KeyError`` if there is none."""
        return self._archive.read(self._members[name])

    def xml(self, name: str) -> ET.Element:
        """Root of a member that is XML; declarations of entities are refused."""
        root: ET.Element = fromstring(self.read(name))
        return root

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Relations of a part of Office Open XML: id → (last word of the type, member that it leads to)."""
        folder, base = posixpath.split(part)
        name = f"{folder}/_rels/{base}.rels".lstrip("/")
        if name not in self.names:
            return {}
        return {
            relation.get("Id", ""): (relation.get("Type", "").rpartition("/")[2], self._target(folder, relation))
            for relation in self.xml(name)
            if relation.get("TargetMode") != "External"
        }

    def related(self, part: str, kind: str) -> list[str]:
        """Members that a part leads to by relations of one kind, e.g. ``notesSlide``."""
        return [target for type_, target in self.relations(part).values() if type_ == kind and target in self.names]

    def facts(self) -> dict[str, str]:
        """Title and author of an Office document."""
        if "docProps/core.xml" not in self.names:
            return {}
        root = self.xml("docProps/core.xml")
        return {"title": real_title(root.findtext(_TITLE) or ""), "author": root.findtext(_AUTHOR) or ""}

    @staticmethod
    def _target(folder: str, relation: ET.Element) -> str:
        target = relation.get("Target", "")
        return target.lstrip("/") if target.startswith("/") else joined(folder, target)


def joined(folder: str, target: str) -> str:
    """The member that a link in a part of this folder leads to."""
    return posixpath.normpath(posixpath.join(folder, unquote(target)))


@contextmanager
def opened(data: bytes, what: str) -> Iterator[Package]:
    """The archive, open.

    Args:
        what: the kind of document in the messages, e.g. ``presentation``.

    Raises:
        LimitExceededError: it is a zip bomb; found before anything is unpacked.
        ParseError: it is damaged, or declares entities; also while it is read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            refuse_bomb(archive, len(data))
            yield Package(archive)
    except RuntimeError as error:
        if isinstance(error, RecursionError) or "password" not in str(error):
            raise
        raise ParseError(
            f"is a {what} with a password", hint="save it without a password, or leave it out", reason="encrypted"
        ) from error
    except (*_DAMAGES, DefusedXmlException) as error:
        _refuse_damaged(what, error)


def refuse_bomb(archive: zipfile.ZipFile, packed_bytes: int) -> None:
    """Refuse a zip bomb by the sizes in the archive's directory: unpacking a member stops at that size."""
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    too_dense = unpacked > _RATIO_COUNTS_FROM_BYTES and unpacked > _MAX_RATIO * packed_bytes
    if unpacked > MAX_UNPACKED_BYTES or too_dense or len(members) > _MAX_MEMBERS:
        raise LimitExceededError(
            f"would unpack to {unpacked:,} bytes in {len(members):,} members",
            hint="open it in an office program, remove what is large, and save it anew",
            unpacked=unpacked,
        )


def _refuse_damaged(what: str, error: Exception) -> NoReturn:
    reason = str(error) or type(error).__name__
    raise ParseError(
        f"is a damaged {what}", hint="open it in an office program and save it anew", reason=reason[:200]
    ) from error


def local(tag: str) -> str:
    """Name of an element or attribute without its namespace."""
    return tag.rpartition("}")[2]
