"""JSON objects of any size, an entry at a time: ``{section: {key: value, …}, …}``, as LlamaIndex persists its stores.

Python's own decoder reads each value whole from a window over the file. It is faster here than an event parser, and it
reads the ``NaN`` and ``Infinity`` that LlamaIndex writes and JSON does not have.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from ragstore.errors import TransferError

WINDOW_CHARS = 1 << 20
MAX_VALUE_CHARS = 1 << 28
"""Of one value: one that never ends must not fill the memory. A struct that names a million nodes has 80 million."""

_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_LITERAL = len("-Infinity")
_LONGEST_CUT = len("e+")
"""Of a number that goes on behind the window: up to there it is one too."""


class Entry(NamedTuple):
    """One entry; ``key`` is None where the section is no object, and then ``value`` is the section."""

    section: str
    key: str | None
    value: Any
    n_chars: int


def entries(stream: IO[bytes], name: str) -> Iterator[Entry]:
    """All entries in the order of the file.

    Args:
        name: of the file, for errors.

    Raises:
        TransferError: damaged; names file and byte offset.
    """
    return _Reader(stream, name).entries()


class _Reader:
    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False
        self._n_chars = 0
        """Of the last value."""
        self._bytes_before = 0
        """Bytes of the file before the window."""

    def entries(self) -> Iterator[Entry]:
        for section in self._keys():
            if self._peek() != "{":
                yield Entry(section, None, self._value(), self._n_chars)
                continue
            for key in self._keys():
                yield Entry(section, key, self._value(), self._n_chars)
        if self._peek() != "":
            raise self._damaged("has something behind its end")

    def _keys(self) -> Iterator[str]:
        """The keys of the object that begins here, each with its value next."""
        self._take("{")
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            if self._peek() != '"':
                raise self._damaged("has no key where one must be")
            key: str = self._value()
            self._take(":")
            yield key
            if self._peek() == "}":
                self._at += 1
                return
            self._take(",")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # A text that does not end is told where it begins, all else where it goes wrong.
                is_cut = error.pos + _LONGEST_LITERAL >= len(self._text) or error.msg.startswith("Unterminated string")
                if self._ended or not is_cut:
                    raise self._damaged(f"is damaged: {error.msg.lower()}", at=error.pos) from error
            except RecursionError as error:
                raise self._damaged("is nested too deeply") from error
            else:
                if end + _LONGEST_CUT < len(self._text) or self._ended:
                    self._n_chars, self._at = end - self._at, end
                    return value
            if len(self._text) - self._at > MAX_VALUE_CHARS:
                raise self._damaged(f"has a value of more than {MAX_VALUE_CHARS:,} characters")
            self._read_on()

    def _peek(self) -> str:
        """The next character that is no space, empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            raise self._damaged(f"has no {wanted!r} where one must be")
        self._at += 1

    def _read_on(self) -> None:
        # Twice as much each time that a value does not fit: else reading a long one would take time by its square.
        left = self._text[self._at :]
        done = self._text[: self._at]
        raw = self._stream.read(max(WINDOW_CHARS, len(left)))
        try:
            more = self._decode(raw, not raw)
        except UnicodeDecodeError as error:
            self._bytes_before += len(done.encode()) + len(left.encode()) + error.start
            self._text, self._at = "", 0
            raise self._damaged("is no UTF-8 text") from error
        self._ended = not raw
        self._bytes_before += len(done) if done.isascii() else len(done.encode())
        self._text, self._at = left + more, 0

    def _damaged(self, what: str, *, at: int | None = None) -> TransferError:
        offset = self._bytes_before + len(self._text[: self._at if at is None else at].encode())
        return TransferError(
            f"{self._name} {what}, at byte {offset:,}",
            hint="it was cut off or changed since LlamaIndex wrote it; persist the index again, or restore the file",
            file=self._name,
            offset=offset,
        )
