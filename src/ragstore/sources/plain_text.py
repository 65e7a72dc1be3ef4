"""Readers of plain text and Markdown, and the decoding of bytes that every reader of text uses."""

from __future__ import annotations

import codecs
import re

from ragstore.errors import ParseError, UnsupportedTypeError
from ragstore.sources.encodings import decodes, guess, is_escaped, stray_bytes_decoded, wide_without_mark
from ragstore.sources.front_matter import without_front_matter
from ragstore.sources.raw import Choices, RawText

# UTF-32 comes first, because its little-endian mark begins with the mark of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 65_536
# ESC is in colours of a terminal, BS in manuals that print bold letters twice.
_CONTROL = bytes(c for c in range(32) if c not in b"\t\n\x0b\x0c\r\x1b\x08")
_MAX_CONTROL_UTF8 = 0.3
_MAX_CONTROL_OTHER = 0.05
# A file that grew while the power was cut, or whose room was reserved; formats of programs have shorter ones too.
_NUL_RUN = re.compile(rb"\0{16,}")

_DATA = r"data:[\w.+-]*/?[\w.+-]*[;,][^\s)>\"']*"
_DATA_IMAGE = re.compile(rf"!\[([^\[\]\n]*)\]\(\s*<?{_DATA}>?(?:\s+(?:\"[^\"\n]*\"|'[^'\n]*'))?\s*\)", re.IGNORECASE)
_DATA_LINK = re.compile(
    rf"(?<!!)\[([^\[\]\n]*)\]\(\s*<?{_DATA}>?(?:\s+(?:\"[^\"\n]*\"|'[^'\n]*'))?\s*\)", re.IGNORECASE
)
_DATA_REFERENCE = re.compile(rf"^ {{0,3}}\[([^\[\]\n]+)\]:\s*<?{_DATA}>?[^\n]*\n?", re.IGNORECASE | re.MULTILINE)
_DATA_TAG = re.compile(r"<img\b[^>]*?\bsrc\s*=\s*[\"']?\s*data:[^>]*>", re.IGNORECASE)
_ALT = re.compile(r"\balt\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+))", re.IGNORECASE)


def read_text(data: bytes, choices: Choices) -> RawText:
    """Plain text in any common encoding."""
    text, notes = decode(data, choices)
    return RawText([text], notes=notes)


def read_markdown(data: bytes, choices: Choices) -> RawText:
    """Markdown; front matter becomes metadata, and of images inside the text only their words are kept."""
    text, notes = decode(data, choices)
    metadata, body = without_front_matter(text.removeprefix("\ufeff"), notes)
    body, n_images = _without_inline_images(body)
    if n_images:
        notes["images_left_out"] = n_images
    return RawText([body], "markdown", metadata=metadata, notes=notes)


def decode(data: bytes, choices: Choices, *, telling: bytes = b"") -> tuple[str, dict[str, int | str]]:
    """Text of bytes in an unknown encoding, and what was guessed and replaced to decode it.

    A byte order mark decides; else UTF-16 and UTF-32 are known by their form; else UTF-8, if need be with a few bytes
    of Windows-1252; else the encoding that was chosen; else the detected one, if no other is nearly as plausible.

    Args:
        telling: what of ``data`` is words, if the rest is markup in ASCII.

    Raises:
        UnsupportedTypeError: the bytes are not text.
        ParseError: the encoding is not certain.
    """
    for mark, marked in _MARKS:
        if data.startswith(mark):
            return _decode_known(data, marked)
    if encoding := wide_without_mark(data):
        text, notes = _decode_known(data, encoding)
        return text, {"decoded_as": encoding, **notes}
    _refuse_binary(data)
    if is_escaped(data) and data.isascii() and (found := guess(data)) and found.is_certain:
        return data.decode(found.encoding), {"decoded_as": found.encoding}
    if decodes(data, "utf-8"):
        return data.decode("utf-8"), {}
    return _decode_other(data, choices, telling)


def _refuse_binary(data: bytes) -> None:
    sample = _NUL_RUN.sub(b"", data[: _SAMPLE_BYTES * 16])[:_SAMPLE_BYTES]
    control = (len(sample) - len(sample.translate(None, _CONTROL))) / max(1, len(sample))
    limit = _MAX_CONTROL_UTF8 if decodes(data, "utf-8") else _MAX_CONTROL_OTHER
    if control > limit:
        raise UnsupportedTypeError("is binary, not text", hint="convert it to a type with a reader, or leave it out")


def _decode_known(data: bytes, encoding: str) -> tuple[str, dict[str, int | str]]:
    text = data.decode(encoding, "replace")
    return text, _replaced(text)


def _decode_other(data: bytes, choices: Choices, telling: bytes) -> tuple[str, dict[str, int | str]]:
    if stray := stray_bytes_decoded(data):
        text, n_stray, n_lost = stray
        notes: dict[str, int | str] = {"stray_bytes_as_cp1252": n_stray, "invalid_utf8": n_lost}
        return text, {name: n for name, n in notes.items() if n}
    if choices.text_encoding:
        text = data.decode(choices.text_encoding, "replace")
        return text, {"decoded_as": choices.text_encoding, **_replaced(text)}
    found = guess(data, telling)
    if found is None or not found.is_certain:
        name = found.encoding if found else "cp1252"
        raise ParseError(
            f"is in an encoding that is not certain, perhaps {name}" if found else "is in an unknown encoding",
            hint=f"save it as UTF-8, or name the encoding of such files: RAGSTORE_TEXT_ENCODING={name}",
            reason="encoding",
        )
    return data.decode(found.encoding), {"decoded_as": found.encoding}


def _replaced(text: str) -> dict[str, int | str]:
    n = text.count("\ufffd")
    return {"replaced_chars": n} if n else {}


def _without_inline_images(text: str) -> tuple[str, int]:
    """Text in which images and links with ``data:`` addresses are only their words, and how many they were."""
    if "data:" not in text.lower():
        return text, 0
    references = {name.casefold() for name in _DATA_REFERENCE.findall(text)}
    text = _DATA_REFERENCE.sub("", text)
    n_images = len(references)
    for name in references:
        label = re.escape(name)
        text = re.sub(rf"!?\[([^\[\]\n]*)\]\s?\[{label}\]|!\[({label})\](?:\[\])?", _words, text, flags=re.IGNORECASE)
    for pattern in (_DATA_IMAGE, _DATA_LINK, _DATA_TAG):
        text, n = pattern.subn(_words, text)
        n_images += n
    return text, n_images


def _words(match: re.Match[str]) -> str:
    if not match.re.groups:
        alt = _ALT.search(match[0])
        return next((words for words in alt.groups() if words), "") if alt else ""
    return next((words for words in match.groups() if words), "")
