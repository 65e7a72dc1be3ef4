"""Mails: the text of a message, its attachments as members, mailboxes of many messages, and saved web pages (MHTML)."""

from __future__ import annotations

import email
import email.policy
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.header import decode_header
from email.message import Message
from email.utils import collapse_rfc2231_value, getaddresses, parsedate_to_datetime
from functools import partial
from typing import Any, BinaryIO, cast

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.encodings import decodes, other_than_western
from ragstore.sources.html_pages import decode_html, page_text, read_html
from ragstore.sources.mail_heads import is_from_line
from ragstore.sources.members import Container, Member, Names
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText, Shape

MAX_HEADERS = 10_000
MAX_PARTS = 10_000
MAX_NESTED_PARTS = 50
"""A message with more of one of these was made to harm; the library would follow each nested part by recursion."""

_MAX_ADDRESSES = 50
_MAX_HEADER_CHARS = 2_000
_STUB_CHARS = 120
_STUB_SHARE = 0.1
_SIGNATURES = ("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature")
_ENCRYPTED = ("application/pgp-encrypted",)
_ENVELOPES = ("application/pkcs7-mime", "application/x-pkcs7-mime")
_TNEF = ("application/ms-tnef", "application/vnd.ms-tnef")
# Not of ``mimetypes``, which reads a file of the system for it; the process that reads mails may not.
_SUFFIXES = {
    "text/plain": ".txt",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/zip": ".zip",
    "application/gzip": ".gz",
    "application/mbox": ".mbox",
    "application/vnd.ms-outlook": ".msg",
    "application/rtf": ".rtf",
    "application/epub+zip": ".epub",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
}
_STUB_WORDS = re.compile(
    r"html|browser|webversion|web version|view (it |this )?online|im browser|navigateur|navegador|plain[- ]text", re.I
)
_PARSER = email.policy.compat32
_NO_SLASH = re.compile(r"[/\\]")
BOM = b"\xef\xbb\xbf"


class MailMessage(Container):
    """One message; its attachments are its members."""

    def check(self) -> None:
        self.file.seek(0)
        data = self.file.read()
        self.message = parse_message(data)
        self._body = _Body(self.message, self.choices)
        self.notes.update(self._body.notes)

    def own_text(self) -> RawText:
        return self._body.text()

    def members(self) -> Iterator[Member]:
        names = Names()
        for part in self._body.attachments:
            self.room.add_member()
            raw, is_message = _name_of(part)
            name = names.of(raw, backslashes=True)
            if is_message:
                yield Member(name, partial(self._bytes_of, part), partial(_as_message, self))
            elif not self.is_unread(name):
                yield Member(name, partial(self._bytes_of, part))

    def _bytes_of(self, part: Message) -> bytes:
        data = _payload(part)
        self.room.check_size(len(data))
        self.room.add_bytes(len(data))
        return data


def _name_of(part: Message) -> tuple[str, bool]:
    """The name of an attachment, and whether it is a message."""
    kind = part.get_content_type()
    name = _filename(part)
    if kind == "message/rfc822":
        inner = part.get_payload()
        subject = _header(cast("Message", inner[0]), "subject") if isinstance(inner, list) and inner else ""
        return name or f"{_NO_SLASH.sub('_', subject[:80]) or 'message'}.eml", True
    if kind == "text/calendar" or (name or "").lower().endswith(".ics"):
        # A calendar's lines are plain text.
        return f"{name or 'calendar.ics'}.txt", False
    suffix = _SUFFIXES.get(kind, "")
    if not name:
        return f"part{suffix}", False
    return (name if "." in name else f"{name}{suffix}"), False


def _as_message(outer: Container, name: str, file: BinaryIO) -> Container:
    return MailMessage(file, name, outer.room, outer.choices)


class MailBox(Container):
    """Messages one after the other in one file, each after a line that begins with ``From``."""

    def check(self) -> None:
        self._spans: list[tuple[int, int]] = []
        self.file.seek(0)
        start, at, blank = None, 0, True
        for line in self.file:
            if blank and is_from_line(line):
                if start is not None:
                    self._spans.append((start, at))
                    self.room.add_member()
                start = at + len(line)
            blank = line in (b"\n", b"\r\n")
            at += len(line)
        if start is None:
            raise ParseError("is a mailbox without a message", hint="leave it out")
        self._spans.append((start, at))
        self.room.add_member()

    def members(self) -> Iterator[Member]:
        names = Names()
        for start, end in self._spans:
            self.file.seek(start)
            head = self.file.read(min(end - start, _HEAD_BYTES))
            yield Member(
                names.of(self._name(head, start, end)), partial(self._message, start, end), partial(_as_message, self)
            )

    def _name(self, head: bytes, start: int, end: int) -> str:
        found = _MESSAGE_ID.search(head.replace(b"\r\n", b"\n").split(b"\n\n")[0])
        if found:
            return re.sub("[/\\\\]", "_", found[1].decode("ascii", "backslashreplace"))
        # Not its number, which another message before it would change.
        return f"without-id-{hashlib.blake2b(self._message(start, end), digest_size=8).hexdigest()}"

    def _message(self, start: int, end: int) -> bytes:
        self.room.check_size(end - start)
        self.file.seek(start)
        data = self.file.read(end - start)
        return _QUOTED_FROM.sub(rb"\1", data)


_HEAD_BYTES = 65_536
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\n[ \t]+)?<?([^\s<>]{1,250})", re.I | re.M)
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.M)


def parse_message(data: bytes) -> Message:
    """A message that the library can go through.

    Raises:
        LimitExceededError: it has too many headers or parts, or they are nested too deeply.
    """
    n_headers = 0
    for n_headers, _ in enumerate(re.finditer(rb"^[!-9;-~]+:", data.split(b"\n\n", 1)[0][: 1 << 22], re.M), start=1):
        if n_headers > MAX_HEADERS:
            raise LimitExceededError(f"has more than {MAX_HEADERS:,} headers", hint="leave it out")
    if len(set(re.findall(rb"boundary=\s*\"?([^\s\";]+)", data, re.I))) > MAX_PARTS:
        raise LimitExceededError(f"has more than {MAX_PARTS:,} parts", hint="leave it out")
    return email.message_from_bytes(data, policy=_PARSER)


class _Body:
    """Text and attachments of a message, found by going through its parts once."""

    def __init__(self, message: Message, choices: Choices) -> None:
        self._message = message
        self._choices = choices
        self.attachments: list[Message] = []
        self.notes: dict[str, int | str] = {}
        self._n_parts = 0
        self._text = self._of(message, 0, related=False)

    def text(self) -> RawText:
        """Head and body of the message."""
        head, facts = _head_of(self._message)
        shape: Shape = "markdown" if self._text.is_html else "prose"
        return RawText([f"{head}\n\n{self._text.text}"], shape, metadata=facts, notes=self.notes)

    def _of(self, part: Message, depth: int, *, related: bool) -> _Piece:
        self._n_parts += 1
        if depth > MAX_NESTED_PARTS or self._n_parts > MAX_PARTS:
            raise LimitExceededError("has too many parts, or too many in one another", hint="leave it out")
        kind = part.get_content_type()
        if not part.is_multipart() or kind == "message/rfc822":
            return self._leaf(part, kind, related=related)
        inner = cast("list[Message]", part.get_payload())
        pieces = [self._of(each, depth + 1, related=related or kind == "multipart/related") for each in inner]
        return _chosen(pieces) if kind == "multipart/alternative" else _joined(pieces)

    def _leaf(self, part: Message, kind: str, *, related: bool) -> _Piece:
        name, disposition = _filename(part), part.get_content_disposition()
        is_text = not name and disposition != "attachment"
        is_inline = related or disposition == "inline" or part["content-id"] is not None
        if kind in _SIGNATURES:
            self._note("signatures")
        elif kind in _TNEF or name.lower() == "winmail.dat":
            self._note("unread_winmail_parts")
        elif kind in _ENCRYPTED or (kind in _ENVELOPES and part.get_param("smime-type") != "signed-data"):
            self._note("encrypted_parts")
        elif kind.startswith("image/") and is_inline:
            self._note("images_left_out")
        elif kind == "text/plain" and is_text:
            return _Piece(self._plain_text(part).strip())
        elif kind == "text/html" and is_text:
            return _Piece(self._html_text(part).strip(), is_html=True)
        elif kind.startswith("multipart/"):
            self._note("damaged_parts")
        else:
            self.attachments.append(part)
        return _Piece("")

    def _note(self, name: str) -> None:
        self.notes[name] = int(self.notes.get(name, 0)) + 1

    def _plain_text(self, part: Message) -> str:
        text = self._decoded(part)
        if str(part.get_param("format", "")).lower() == "flowed":
            text = _unflowed(text, deletes_space=str(part.get_param("delsp", "")).lower() == "yes")
        return text

    def _decoded(self, part: Message) -> str:
        text, notes = decode_labelled(_payload(part), _charset(part), self._choices)
        for name, value in notes.items():
            self.notes.setdefault(name, value)
        return text

    def _html_text(self, part: Message) -> str:
        raw = read_html(BOM + self._decoded(part).encode("utf-8", "replace"), self._choices)
        return "\n\n".join(raw.parts)


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    is_html: bool = False


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    with_text = [piece for piece in pieces if piece.text]
    return _Piece("\n\n".join(p.text for p in with_text), is_html=any(p.is_html for p in with_text))


def _chosen(pieces: Sequence[_Piece]) -> _Piece:
    """One of several forms of the same text: the plain one, unless it has nothing to say."""
    plain = _joined([piece for piece in pieces if not piece.is_html])
    html = next((piece for piece in reversed(pieces) if piece.is_html and piece.text), None)
    return html if html and is_stub(plain.text, html.text) else plain


def decode_labelled(data: bytes, label: str, choices: Choices) -> tuple[str, dict[str, int | str]]:
    if label and label not in ("us-ascii", "ascii", "unknown-8bit", "utf-7"):
        label = {"iso-8859-1": "cp1252", "gb2312": "gb18030", "ks_c_5601-1987": "cp949", "euc-kr": "cp949"}.get(
            label, label
        )
        if label in ("cp1252", "windows-1252") and (other := _contradiction(data)):
            return data.decode(other), {"decoded_as": other}
        try:
            if b" ".decode(label) and "".encode(label) == "".encode(label):
                return data.decode(label), {}
        except UnicodeDecodeError:
            text = data.decode(label, "replace")
            n = text.count("\ufffd")
            if n <= max(3, len(text) // 100):
                return text, {"replaced_chars": n}
        except LookupError:
            pass
    return decode(data, choices) if data else ("", {})


def _contradiction(data: bytes) -> str | None:
    """What a text labelled as Western is in, if its bytes say so: UTF-8 is never valid by chance."""
    is_utf8 = not data.isascii() and decodes(data, "utf-8")
    return "utf-8" if is_utf8 else other_than_western(data)


def is_stub(plain: str, html: str) -> bool:
    if not plain:
        return True
    return (
        len(plain) < max(_STUB_CHARS, _STUB_SHARE * len(html)) * 2
        and len(plain) < len(html)
        and bool(_STUB_WORDS.search(plain))
    )


def _unflowed(text: str, *, deletes_space: bool) -> str:
    """Paragraphs of a text in which a space at a line's end says that the line goes on (RFC 3676)."""
    lines: list[str] = []
    depth_before, goes_on = -1, False
    for raw in text.replace("\r\n", "\n").split("\n"):
        quoted = len(raw) - len(raw.lstrip(">"))
        line = raw[quoted:].removeprefix(" ")
        if goes_on and quoted == depth_before and line != "-- ":
            lines[-1] += line
        else:
            lines.append(f"{'>' * quoted}{' ' if quoted else ''}{line}")
        depth_before, goes_on = quoted, line.endswith(" ") and line != "-- "
        if goes_on and deletes_space:
            lines[-1] = lines[-1][:-1]
    return "\n".join(lines)


def _head_of(message: Message) -> tuple[str, dict[str, str]]:
    return head_of(
        subject=_header(message, "subject"),
        people={name: _people(message, name) for name in ("from", "to", "cc")},
        date=_date(message),
        message_id=_header(message, "message-id"),
    )


def head_of(*, subject: str, people: dict[str, str], date: str, message_id: str) -> tuple[str, dict[str, str]]:
    """The lines about a message that stand above its body, so that a search finds it by them, and its metadata."""
    sender, to, cc = (people.get(name, "") for name in ("from", "to", "cc"))
    shown = {"Subject": subject, "From": sender, "To": to, "Cc": cc, "Date": date}
    head = "\n".join(f"{name}: {' '.join(value.split())}" for name, value in shown.items() if value.strip())
    facts = {"title": subject, "subject": subject, "from": sender, "to": to, "cc": cc, "date": date}
    facts["message_id"] = message_id.strip("<> \r\n")
    return head, {name: value for name, value in facts.items() if value}


def _people(message: Message, name: str) -> str:
    values = [_header(message, name, each) for each in message.get_all(name, [])]
    pairs = getaddresses(values)
    shown = [f"{person} <{address}>" if person and address else address or person for person, address in pairs]
    more = f", and {len(shown) - _MAX_ADDRESSES:,} more" if len(shown) > _MAX_ADDRESSES else ""
    return ", ".join(shown[:_MAX_ADDRESSES]) + more


def _date(message: Message) -> str:
    raw = _header(message, "date")
    try:
        return parsedate_to_datetime(raw).isoformat(sep=" ")
    except (ValueError, TypeError, IndexError, OverflowError):
        return raw


def _header(message: Message, name: str, value: Any = None) -> str:
    """A header's text, decoded as RFC 2047 says, in one line."""
    raw = message.get(name, "") if value is None else value
    text = str(raw)[: _MAX_HEADER_CHARS * 10]
    return " ".join(_words(raw if not isinstance(raw, str) else text).split())[:_MAX_HEADER_CHARS]


def _words(raw: Any) -> str:
    parts = []
    try:
        pieces = decode_header(raw)
    except (ValueError, email.errors.HeaderParseError):
        return str(raw)
    for piece, charset in pieces:
        label = (charset or "").lower()
        data = piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece
        parts.append(decode_labelled(data, "" if label == "unknown-8bit" else label, Choices())[0])
    return "".join(parts)


def _filename(part: Message) -> str:
    name = part.get_filename("") or ""
    if not isinstance(name, str):
        name = collapse_rfc2231_value(name)
    if not name:
        return ""
    return _words(name) if "=?" in name or not name.isascii() else name


def _charset(part: Message) -> str:
    label = part.get_content_charset("") or ""
    return label.strip().strip("'\"").lower()


def _payload(part: Message) -> bytes:
    """The bytes of a part, decoded from base64 or quoted-printable as far as they are either."""
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload()
        if isinstance(inner, list) and inner:
            return cast("Message", inner[0]).as_bytes(policy=_PARSER)
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def read_mhtml(data: bytes, choices: Choices) -> RawText:
    """The page of a saved web page, without its images and style sheets."""
    message = parse_message(data)
    pages = [part for part in message.walk() if part.get_content_type() == "text/html"]
    if not pages:
        raise ParseError("has no page in it", hint="save it anew as a web page", reason="no html part")
    start = str(message.get_param("start", "")).strip("<>")
    page = next((part for part in pages if start and str(part["content-id"] or "").strip("<> ") == start), pages[0])
    raw = page_text(*decode_html(_payload(page), choices, page.get_content_charset("") or ""))
    n_resources = sum(not part.is_multipart() for part in message.walk()) - 1
    noted = {**raw.notes, **({"resources_left_out": n_resources} if n_resources else {})}
    return RawText(raw.parts, raw.shape, raw.metadata, noted, raw.places)


def read_mail(data: bytes, choices: Choices) -> RawText:
    """The text of one message."""
    return _Body(parse_message(data), choices).text()
