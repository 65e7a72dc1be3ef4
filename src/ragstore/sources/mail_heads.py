"""Recognition of mails, mailboxes and saved web pages by their first lines, under whatever name they are kept."""

from __future__ import annotations

import re

_FIELD = re.compile(rb"([!-9;-~]{1,64}):.*")
_CLASSIC = frozenset(
    b"from to cc date subject message-id mime-version received return-path content-type delivered-to reply-to".split()
)
_ON_ITS_WAY = frozenset(b"message-id mime-version received return-path date content-type".split())
_FROM_SOMEBODY = frozenset(b"from sender received return-path delivered-to".split())
_FROM_LINE = re.compile(rb"From [^\n]{0,500}?\d\d:\d\d[^\n]{0,80}?\d{4}[^\n]{0,40}\r?\n?")
_SAVED_PAGE = re.compile(
    rb"^snapshot-content-location:|^content-type:\s*multipart/related;[^\n]*(\n[ \t][^\n]*)*type=\"?text/html",
    re.I | re.M,
)
_LEAST_CLASSIC = 2


def is_from_line(line: bytes) -> bool:
    """Whether a line begins a message of a mailbox: ``From``, a sender, and a date with time and year."""
    return line.startswith(b"From ") and _FROM_LINE.fullmatch(line) is not None


def begins_message(head: bytes, *, is_named_so: bool = False) -> bool:
    """Whether a file begins with the headers of a mail or a saved web page.

    Args:
        head: its first bytes.
        is_named_so: then any header will do; else at least two classic ones are asked for, so that a text that begins
            with ``Subject: …`` stays a text.
    """
    names = _field_names(head)
    if not names:
        return False
    if is_named_so:
        return True
    return len(names & _CLASSIC) >= _LEAST_CLASSIC and bool(names & _ON_ITS_WAY) and bool(names & _FROM_SOMEBODY)


def _field_names(head: bytes) -> set[bytes]:
    """Names of the headers before the first blank line; none if another line is among them."""
    names: set[bytes] = set()
    lines = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").replace(b"\r\n", b"\n").split(b"\n")
    is_whole = len(lines) == 1
    for line in lines if is_whole else lines[:-1]:
        if not line:
            break
        if line[:1] in (b" ", b"\t") and names:
            continue
        field = _FIELD.fullmatch(line)
        if not field:
            return set()
        names.add(field[1].lower())
    return names


def begins_mailbox(head: bytes) -> bool:
    """Whether a file begins with the line that begins each message of a mailbox, and then a message."""
    first, _, rest = head.partition(b"\n")
    return is_from_line(first + b"\n") and begins_message(rest)


def is_saved_page(head: bytes) -> bool:
    """Whether a message is a web page that a browser saved (MHTML)."""
    return _SAVED_PAGE.search(head.replace(b"\r\n", b"\n").split(b"\n\n")[0]) is not None
