"""Files that contain documents, and the way through them: each member is a document of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ragstore.errors import ContentError, LimitExceededError, ParseError
from ragstore.model.report import Findings
from ragstore.sources.archives import (
    COMPRESSIONS,
    ZIP_MAGICS,
    CompressedFile,
    TarArchive,
    ZipArchive,
    is_document_in_zip,
    is_tar,
)
from ragstore.sources.file_bytes import content_hash
from ragstore.sources.formats import format_named
from ragstore.sources.mail_heads import begins_mailbox, begins_message, is_saved_page
from ragstore.sources.mails import MailBox, MailMessage
from ragstore.sources.members import MAX_DEPTH, Container, Member, Room, member_id
from ragstore.sources.outlook import OUTLOOK_MAGIC, OutlookMessage
from ragstore.sources.raw import Choices
from ragstore.sources.readers import ReadText, as_read, read

_HEAD_BYTES = 4096
_OF_TAR = (".tgz", ".tbz2", ".txz", ".tzst", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A document in a container, not yet read.

    Args:
        document_id: id of the member below the file's.
        container_id: id of the container that it lies in.
        error: why its bytes could not be had; then there is nothing to read.
        is_mail: whether it is a message, whose subject is above all of its text.
        size: bytes.
    """

    document_id: str
    container_id: str
    size: int = 0
    content_hash: str = ""
    read: Callable[[], ReadText] | None = None
    error: ContentError | None = None
    is_mail: bool = False


class Walk:
    """The documents in one file that is a container, those in nested containers included.

    Attributes:
        left_out: names of members that are not read, by reason; known at the end.
        notes: as those of a container.
    """

    def __init__(self, container: Container, document_id: str) -> None:
        self._container = container
        self._document_id = document_id
        self.left_out = Findings()
        self.notes = container.notes

    def leaves(self) -> Iterator[Leaf]:
        """The documents one by one; each must be read before the next is asked for."""
        yield from self._below(self._container, self._document_id, depth=1)

    def own_text(self) -> ReadText | None:
        """The text of the file itself, None if it only contains others."""
        raw = self._container.own_text()
        return as_read(raw) if raw is not None else None

    @property
    def is_mail(self) -> bool:
        return isinstance(self._container, (MailMessage, OutlookMessage))

    def _below(self, container: Container, container_id: str, *, depth: int) -> Iterator[Leaf]:
        for member in container.members():
            yield from self._member(container, member, container_id, depth)
        for reason, names in container.left_out.examples.items():
            n_more = container.left_out.counts[reason] - len(names)
            self.left_out.add(reason, [member_id(container_id, name) for name in names], n_more=n_more)

    def _member(self, container: Container, member: Member, container_id: str, depth: int) -> Iterator[Leaf]:
        document_id = member_id(container_id, member.name)
        try:
            data = member.read()
            nested = _opened(member, data, container)
            if nested:
                if depth >= MAX_DEPTH:
                    raise LimitExceededError(
                        f"lies in more than {MAX_DEPTH} containers", hint="unpack the outer ones, or leave it out"
                    )
                nested.check()
        except ContentError as error:
            yield Leaf(document_id, container_id, error=error)
            return
        except RecursionError as error:
            yield Leaf(document_id, container_id, error=_too_deep(error))
            return
        if nested is None:
            yield Leaf(
                document_id,
                container_id,
                len(data),
                content_hash(data),
                lambda: read(data, member.name, container.choices),
            )
            return
        yield from self._below(nested, document_id, depth=depth + 1)
        raw = nested.own_text()
        if raw is None:
            # It is no document, so that its notes belong to the file that it lies in.
            for name, value in nested.notes.items():
                before = self.notes.get(name, 0)
                self.notes[name] = value + before if isinstance(value, int) and isinstance(before, int) else value
        else:
            yield Leaf(document_id, container_id, len(data), content_hash(data), lambda: as_read(raw), is_mail=True)


def _too_deep(cause: RecursionError) -> ParseError:
    error = ParseError("is nested too deeply", hint="leave it out", reason="recursion")
    error.__cause__ = cause
    return error


def _opened(member: Member, data: bytes, within: Container) -> Container | None:
    file = io.BytesIO(data)
    if member.opened:
        return member.opened(member.name, file)
    return open_container(file, member.name, within.room, within.choices)


def open_container(file: BinaryIO, name: str, room: Room, choices: Choices) -> Container | None:
    """The container that a file is, by its bytes, and where these could be text by its name too; else None."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    found = _kind_of(file, head, name, choices)
    return found(file, name, room, choices) if found else None


def _kind_of(file: BinaryIO, head: bytes, name: str, choices: Choices) -> type[Container] | None:
    named = format_named(name, choices) or "text"
    if head.startswith(OUTLOOK_MAGIC):
        return OutlookMessage if named == "msg" else None
    if named == "archive":
        return _kind_of_archive(file, head, name.lower())
    if begins_mailbox(head) and named in ("text", "mail", "mbox"):
        # A single message may have the line that mailboxes have, too.
        return MailMessage if named == "mail" else MailBox
    if named in ("text", "html", "mail", "mbox") and begins_message(head, is_named_so=named == "mail"):
        return None if is_saved_page(head) else MailMessage
    return None


def _kind_of_archive(file: BinaryIO, head: bytes, name: str) -> type[Container] | None:
    if head.startswith(ZIP_MAGICS):
        return None if is_document_in_zip(file) else ZipArchive
    is_compressed = head.startswith(tuple(COMPRESSIONS))
    # Of a cut archive not even the beginning may be readable.
    if is_tar(file) or (is_compressed and name.endswith(_OF_TAR)):
        return TarArchive
    return CompressedFile if is_compressed else None
