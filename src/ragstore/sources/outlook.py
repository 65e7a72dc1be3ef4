"""Messages that Outlook saved (msg): properties in streams of an OLE file, read as MS-OXMSG describes them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.parser import HeaderParser
from functools import partial
from typing import BinaryIO

import olefile

from ragstore.errors import ParseError
from ragstore.sources.html_pages import read_html
from ragstore.sources.mails import BOM, decode_labelled, head_of, is_stub
from ragstore.sources.members import Container, Member, Names, damaged
from ragstore.sources.raw import Choices, RawText, Shape

OUTLOOK_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SUBJECT, _BODY, _HTML, _RTF = "0037", "1000", "1013", "1009"
_SENDER_NAME, _SENDER_ADDRESS, _SENDER_SMTP = "0C1A", "0C1F", "5D01"
_HEADERS, _MESSAGE_ID = "007D", "1035"
_RECIPIENT_NAME, _RECIPIENT_ADDRESS, _RECIPIENT_SMTP = "3001", "3003", "39FE"
_DATA, _LONG_NAME, _SHORT_NAME, _CONTENT_ID, _DISPLAY_NAME = "3701", "3707", "3704", "3712", "3001"
_ATTACH_METHOD, _SENT, _RECEIVED, _CODEPAGE, _MESSAGE_CODEPAGE, _KIND, _HIDDEN = (
    0x3705, 0x0039, 0x0E06, 0x3FDE, 0x3FFD, 0x0C15, 0x7FFE,
)  # fmt: skip
_UNICODE, _BYTES, _TEXT, _STORAGE = "001F", "0102", "001E", "000D"
_ROOT_HEADER, _EMBEDDED_HEADER, _OTHER_HEADER, _ENTRY = 32, 24, 8, 16
_EPOCH_1601 = datetime(1601, 1, 1, tzinfo=UTC)
_RECIPIENT_KINDS = {1: "to", 2: "cc"}
_MAX_STREAMS = 100_000
_BROKEN = (OSError, ValueError, struct.error, IndexError, KeyError, TypeError, AttributeError, OverflowError)


class OutlookMessage(Container):
    """One message; its attachments are its members, and a message that is attached to it is a container itself."""

    _at: tuple[str, ...] = ()

    def check(self) -> None:
        try:
            self._ole = olefile.OleFileIO(self.file)
            self._streams = [tuple(path) for path in self._ole.listdir(streams=True, storages=True)[:_MAX_STREAMS]]
            self._message = _Storage(self._ole, self._at, self._streams)
            if not self._message.has_properties:
                raise ParseError("is an OLE file, but no message of Outlook", hint="save it anew, or leave it out")
            self._text = self._read_text()
        except _BROKEN as error:
            raise damaged("a message of Outlook", error) from error

    def own_text(self) -> RawText:
        return self._text

    def _read_text(self) -> RawText:
        message = self._message
        plain = message.text(_BODY, self.choices).strip()
        html = _html(message, self.choices)
        if not plain and not html and message.stream(_RTF, _BYTES):
            self.notes["unread_rtf_bodies"] = 1
        is_html = bool(html) and is_stub(plain, html)
        head, facts = self._head()
        shape: Shape = "markdown" if is_html else "prose"
        return RawText([f"{head}\n\n{html if is_html else plain}"], shape, metadata=facts, notes=self.notes)

    def _head(self) -> tuple[str, dict[str, str]]:
        message = self._message
        headers = HeaderParser().parsestr(message.text(_HEADERS, self.choices))
        sender = _person(message, _SENDER_NAME, (_SENDER_SMTP, _SENDER_ADDRESS), self.choices)
        people: dict[str, list[str]] = {"to": [], "cc": []}
        for recipient in message.below("__recip_version1.0_#"):
            kind = _RECIPIENT_KINDS.get(recipient.number(_KIND) or 1)
            if kind:
                addresses = (_RECIPIENT_SMTP, _RECIPIENT_ADDRESS)
                people[kind].append(_person(recipient, _RECIPIENT_NAME, addresses, self.choices))
        sent = message.time(_SENT) or message.time(_RECEIVED)
        message_id = message.text(_MESSAGE_ID, self.choices) or str(headers.get("message-id", ""))
        return head_of(
            subject=message.text(_SUBJECT, self.choices),
            people={"from": sender, **{name: ", ".join(filter(None, each)) for name, each in people.items()}},
            date=sent.isoformat(sep=" ", timespec="seconds") if sent else str(headers.get("date", "")),
            message_id=message_id,
        )

    def members(self) -> Iterator[Member]:
        names = Names()
        html = _html_source(self._message)
        for attachment in self._message.below("__attach_version1.0_#"):
            self.room.add_member()
            if self._is_shown_inside(attachment, html):
                self.notes["images_left_out"] = int(self.notes.get("images_left_out", 0)) + 1
                continue
            name = attachment.text(_LONG_NAME, self.choices) or attachment.text(_SHORT_NAME, self.choices)
            if attachment.is_storage(_DATA):
                title = name or attachment.text(_DISPLAY_NAME, self.choices) or "message"
                at = (*attachment.at, f"__substg1.0_{_DATA}{_STORAGE}")
                file_name = names.of(f"{title.replace('/', '_').removesuffix('.msg')}.msg")
                yield Member(file_name, lambda: b"", partial(self._embedded, at))
                continue
            file_name = names.of(name or "attachment", backslashes=True)
            if not self.is_unread(file_name):
                yield Member(file_name, partial(self._bytes_of, attachment))

    def _embedded(self, at: tuple[str, ...], name: str, _: BinaryIO) -> Container:
        inner = OutlookMessage(self.file, name, self.room, self.choices)
        inner._at = at
        return inner

    def _bytes_of(self, attachment: _Storage) -> bytes:
        try:
            data = attachment.stream(_DATA, _BYTES)
        except _BROKEN as error:
            raise damaged("an attachment", error) from error
        self.room.check_size(len(data))
        self.room.add_bytes(len(data))
        return data

    def _is_shown_inside(self, attachment: _Storage, html: bytes) -> bool:
        name = attachment.text(_LONG_NAME, self.choices) or attachment.text(_SHORT_NAME, self.choices)
        is_image = name.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".emz", ".wmz"))
        content_id = attachment.text(_CONTENT_ID, self.choices)
        return is_image and (bool(content_id and content_id.encode() in html) or bool(attachment.number(_HIDDEN)))


class _Storage:
    """A folder of the OLE file that holds the properties of a message, a recipient or an attachment."""

    def __init__(self, ole: olefile.OleFileIO, at: tuple[str, ...], streams: list[tuple[str, ...]]) -> None:
        self.at = at
        self._ole = ole
        self._streams = streams
        self._names = {
            path[len(at)].lower(): path[len(at)] for path in streams if path[: len(at)] == at and len(path) > len(at)
        }
        self._fixed = self._properties()

    @property
    def has_properties(self) -> bool:
        return "__properties_version1.0" in self._names

    def below(self, beginning: str) -> list[_Storage]:
        """Its folders with names that begin so, in the order of their numbers."""
        names = sorted(name for key, name in self._names.items() if key.startswith(beginning.lower()))
        return [_Storage(self._ole, (*self.at, name), self._streams) for name in names]

    def stream(self, number: str, kind: str) -> bytes:
        name = self._names.get(f"__substg1.0_{number}{kind}".lower())
        if name is None or self._ole.get_type([*self.at, name]) != olefile.STGTY_STREAM:
            return b""
        data: bytes = self._ole.openstream([*self.at, name]).read()
        return data

    def is_storage(self, number: str) -> bool:
        return f"__substg1.0_{number}{_STORAGE}".lower() in self._names

    def text(self, number: str, choices: Choices) -> str:
        """A property of text, in whichever of the two kinds it is kept."""
        if data := self.stream(number, _UNICODE):
            return data.decode("utf-16-le", "replace").rstrip("\0")
        data = self.stream(number, _TEXT)
        return decode_labelled(data, self.codepage(), choices)[0].rstrip("\0") if data else ""

    def codepage(self) -> str:
        page = self.number(_MESSAGE_CODEPAGE) or self.number(_CODEPAGE)
        return "utf-8" if page == 65001 else f"cp{page}" if page else ""

    def number(self, number: int) -> int | None:
        raw = self._fixed.get(number)
        return struct.unpack_from("<i", raw)[0] if raw else None

    def time(self, number: int) -> datetime | None:
        raw = self._fixed.get(number)
        if not raw:
            return None
        try:
            return _EPOCH_1601 + timedelta(microseconds=struct.unpack("<Q", raw)[0] // 10)
        except OverflowError:
            return None

    def _properties(self) -> dict[int, bytes]:
        name = self._names.get("__properties_version1.0")
        if name is None:
            return {}
        data = self._ole.openstream([*self.at, name]).read()
        last = self.at[-1] if self.at else ""
        header = (
            _ROOT_HEADER
            if not self.at
            else _OTHER_HEADER
            if last.startswith(("__recip", "__attach"))
            else _EMBEDDED_HEADER
        )
        found = {}
        for at in range(header, len(data) - _ENTRY + 1, _ENTRY):
            tag = struct.unpack_from("<I", data, at)[0]
            found[tag >> 16] = data[at + 8 : at + 16]
        return found


def _html_source(message: _Storage) -> bytes:
    return message.stream(_HTML, _BYTES) or message.stream(_HTML, _UNICODE) or message.stream(_HTML, _TEXT)


def _html(message: _Storage, choices: Choices) -> str:
    if data := message.stream(_HTML, _BYTES):
        page = message.number(_CODEPAGE)
        label = "utf-8" if page == 65001 else f"cp{page}" if page else ""
        text = decode_labelled(data, label, choices)[0]
    else:
        text = message.text(_HTML, choices)
    return "\n\n".join(read_html(BOM + text.encode("utf-8", "replace"), choices).parts).strip() if text else ""


def _person(storage: _Storage, name: str, addresses: tuple[str, ...], choices: Choices) -> str:
    shown = storage.text(name, choices).strip("'\" ")
    address = next((a for number in addresses if "@" in (a := storage.text(number, choices))), "")
    return f"{shown} <{address}>" if address and shown and shown != address else address or shown
