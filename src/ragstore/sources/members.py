"""Members of containers: their names made storable and distinct, the limits of unpacking, and what is left out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from ragstore.errors import LimitExceededError, ParseError
from ragstore.model.document import IN_CONTAINER, MAX_DOCUMENT_ID_BYTES
from ragstore.model.report import Findings
from ragstore.sources.bounds import is_too_long, shortened
from ragstore.sources.formats import CHOSEN, format_named, suffix_of
from ragstore.sources.raw import Choices, RawText

MAX_MEMBERS = 250_000
"""Most members of one file, those of nested containers included."""

MAX_DEPTH = 5
"""Most containers around a member: a text in a zip that is attached to a mail of a mailbox lies in three."""

MAX_RATIO = 200
_FREE_OF_RATIO_BYTES = 64 * 2**20
MAX_UNPACKED_BYTES = 8 * 2**30
"""A container that unpacks to more than this, or to more than ``MAX_RATIO`` times its size, is not read."""

_ARCHIVE_HINT = "unpack it, and name the folder instead"
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
# Single Han characters also arise by chance, from letters with accents in other encodings.
_KANA_OR_HAN = re.compile("[\u3040-\u30ff]|[\u4e00-\u9fff]{2}")
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a container.

    Args:
        name: relative and distinct in its container, parts separated by ``/``.
        read: its bytes; to be called before the next member is asked for.
        opened: opens it as the container that it certainly is, from its name and bytes.
    """

    name: str
    read: Callable[[], bytes]
    opened: Callable[[str, BinaryIO], Container] | None = None


class Room:
    """What one file may unpack to; containers in it share the room.

    Args:
        max_member_bytes: largest member that is read.
    """

    def __init__(self, *, max_member_bytes: int) -> None:
        self.max_member_bytes = max_member_bytes
        self._n_members = 0
        self._n_bytes = 0

    def add_member(self) -> None:
        """Count one more member.

        Raises:
            LimitExceededError: there are too many.
        """
        self._n_members += 1
        if self._n_members > MAX_MEMBERS:
            raise LimitExceededError(f"has more than {MAX_MEMBERS:,} members", hint="split it, or unpack it")

    def add_bytes(self, n_bytes: int) -> None:
        """Count unpacked bytes.

        Raises:
            LimitExceededError: there are too many.
        """
        self._n_bytes += n_bytes
        if self._n_bytes > MAX_UNPACKED_BYTES:
            raise LimitExceededError(f"unpacks to more than {MAX_UNPACKED_BYTES:,} bytes", hint=_ARCHIVE_HINT)

    def check_size(self, n_bytes: int) -> None:
        """Raise LimitExceededError if a member of this size is not read."""
        if n_bytes > self.max_member_bytes:
            raise LimitExceededError(
                f"has more than {self.max_member_bytes:,} bytes", hint="raise RAGSTORE_MAX_FILE_MB, or leave it out"
            )


def check_ratio(n_unpacked: int, n_packed: int) -> None:
    """Raise LimitExceededError if a container unpacks to a size that only bombs have."""
    if n_unpacked > MAX_UNPACKED_BYTES:
        raise LimitExceededError(
            f"unpacks to {n_unpacked:,} bytes, more than {MAX_UNPACKED_BYTES:,}", hint=_ARCHIVE_HINT
        )
    if n_unpacked > max(_FREE_OF_RATIO_BYTES, MAX_RATIO * n_packed):
        raise LimitExceededError(f"unpacks to more than {MAX_RATIO} times its size, as a bomb does", hint=_ARCHIVE_HINT)


@dataclass
class Container:
    """An open container; ``check`` it, then iterate over its members once.

    Args:
        left_out: names of members that are not read, by reason, known once the members were iterated.
        notes: what a person would want to know about it, as in ``ParsedDocument``.
    """

    file: BinaryIO
    name: str
    room: Room
    choices: Choices
    left_out: Findings = field(default_factory=Findings)
    notes: dict[str, int | str] = field(default_factory=dict)

    def check(self) -> None:
        """List all members, so that a container that cannot be read is refused before any member of it is.

        Raises:
            ParseError: it is damaged or encrypted.
            LimitExceededError: it would unpack to too much.
        """

    def members(self) -> Iterator[Member]:
        """The members that there may be a reader for, in the order of the container."""
        raise NotImplementedError

    def own_text(self) -> RawText | None:
        """The text of the container itself, e.g. the body of a mail; None if it is only a container."""
        return None

    def is_unread(self, name: str) -> bool:
        """Whether a name is one that listings of folders pass over too; it is counted in ``left_out``."""
        reason = _passed_over(name, self.choices)
        if reason:
            self.left_out.add(reason, [name])
        return reason is not None


def _passed_over(name: str, choices: Choices) -> str | None:
    parts = name.split("/")
    if "__MACOSX" in parts[:-1] or any(part.startswith(".") for part in parts):
        return "hidden"
    if parts[-1].startswith("~$"):
        return "lock files"
    # A reader of the deployment's choice wants a file of its own, which a member is not.
    if format_named(parts[-1], choices) not in {None, CHOSEN}:
        return None
    suffix = suffix_of(parts[-1])
    return f"type {suffix}" if suffix else "no type"


class Names:
    """Storable names of the members of one container, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, raw: str, *, backslashes: bool = False) -> str:
        """The name without steps up, root, empty parts and characters that cannot be stored.

        Args:
            backslashes: whether they separate folders, as in archives that old Windows programs made.
        """
        name = _UNSTORABLE.sub(_escaped, raw.replace("\\", "/") if backslashes else raw)
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        return self._distinct("/".join(parts) or "unnamed")

    def _distinct(self, name: str) -> str:
        given, n = name, 1
        while given in self._given:
            n += 1
            stem, suffix = os.path.splitext(name)
            given = f"{stem}~{n}{suffix}"
        self._given.add(given)
        return given


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    return (
        "" if char == "\0" else f"\\x{ord(char) & 0xFF:02x}" if "\udc80" <= char <= "\udcff" else f"\\u{ord(char):04x}"
    )


def decoded_names(raw: Sequence[bytes], choices: Choices, otherwise: str) -> tuple[list[str], str]:
    """Names in an encoding that the container does not tell, all of them in one, and which it is.

    UTF-8 if all of them are; else the encoding that was chosen; else Shift-JIS if that shows Japanese; else the
    ``otherwise`` of their format.
    """
    encodings = ["utf-8", *([choices.text_encoding] if choices.text_encoding else []), "cp932"]
    for encoding in encodings:
        try:
            names = [name.decode(encoding) for name in raw]
        except UnicodeDecodeError:
            continue
        if encoding != "cp932" or _is_japanese("".join(names)):
            return names, encoding
    return [name.decode(otherwise, "backslashreplace") for name in raw], otherwise


def _is_japanese(text: str) -> bool:
    return bool(_KANA_OR_HAN.search(text)) and not _HALF_WIDTH.search(text)


def member_id(container_id: str, name: str) -> str:
    """Document id of a member; no file's path has this form, since paths have no empty parts."""
    whole = f"{container_id}{IN_CONTAINER}{name}"
    if not is_too_long(whole):
        return whole
    # The end is cut off; what begins with the container's id belongs to it, so this beginning must stay.
    room = MAX_DOCUMENT_ID_BYTES - len(f"{container_id}{IN_CONTAINER}".encode())
    if room < _LEAST_NAME_BYTES:
        return shortened(whole)
    tail = f"~{hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()}"
    cut = name.encode()[: room - len(tail)].decode("utf-8", "ignore")
    return f"{container_id}{IN_CONTAINER}{cut}{tail}"


_LEAST_NAME_BYTES = 64


def damaged(what: str, cause: BaseException) -> ParseError:
    """The error for a container or member that its library cannot read."""
    reason = f"{type(cause).__name__}: {cause}"[:200]
    return ParseError(f"is {what} that cannot be read: {reason}", hint="make it anew, or leave it out")
