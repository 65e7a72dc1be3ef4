"""Readers of plain text and Markdown: detection of the encoding, and front matter as metadata."""

from __future__ import annotations

import codecs
import re
from typing import Any

from ragstore.errors import UnsupportedTypeError
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
_CONTROL = bytes(c for c in range(32) if c not in b"\t\n\x0b\x0c\r\x1b")
_MAX_CONTROL_UTF8 = 0.3
_MAX_CONTROL_OTHER = 0.05
_MIN_NULS_UTF16 = 0.3

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MAX_FRONT_MATTER_CHARS = 20_000
_FACT = re.compile(r"([A-Za-z_][\w-]{0,63}):[ \t]+(.+)")
_MAX_FACTS = 50


def read_text(data: bytes, choices: Choices) -> RawText:
    """Plain text in any common encoding."""
    text, notes = decode(data, choices)
    return RawText([text], notes=notes)


def read_markdown(data: bytes, choices: Choices) -> RawText:
    """Markdown; simple front matter becomes metadata, any other stays in the text."""
    text, notes = decode(data, choices)
    metadata, body = _without_front_matter(text)
    return RawText([body], "markdown", metadata=metadata, notes=notes)


def decode(data: bytes, choices: Choices) -> tuple[str, dict[str, int | str]]:
    """Text of bytes in an unknown encoding, and counts of what was replaced to decode it.

    A byte order mark decides; else NULs show UTF-16; else UTF-8; else the encoding that was chosen; else UTF-8 even
    if some bytes are damaged; else Windows-1252.

    Raises:
        UnsupportedTypeError: the bytes are not text.
    """
    for mark, marked in _MARKS:
        if data.startswith(mark):
            return _decode_known(data, marked)
    sample = data[:_SAMPLE_BYTES]
    if encoding := _utf16_without_mark(sample):
        return _decode_known(data, encoding)
    n_control = len(sample) - len(sample.translate(None, _CONTROL))
    control = n_control / max(1, len(sample))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        _refuse_binary(control > _MAX_CONTROL_OTHER)
        return _decode_other(data, choices)
    _refuse_binary(control > _MAX_CONTROL_UTF8)
    return text, {}


def _refuse_binary(is_binary: bool) -> None:
    if is_binary:
        raise UnsupportedTypeError("is binary, not text", hint="convert it to a type with a reader, or leave it out")


def _decode_known(data: bytes, encoding: str) -> tuple[str, dict[str, int | str]]:
    text = data.decode(encoding, "replace")
    return text, _replaced(text)


def _decode_other(data: bytes, choices: Choices) -> tuple[str, dict[str, int | str]]:
    if choices.text_encoding:
        text = data.decode(choices.text_encoding, "replace")
        return text, {"decoded_as": choices.text_encoding, **_replaced(text)}
    text = data.decode("utf-8", "replace")
    n_bad = text.count("\ufffd")
    # In text in Windows-1252, bytes are almost never a valid character of UTF-8 by chance.
    n_good = sum(len(run) for run in re.findall(r"[^\x00-\x7f]+", text)) - n_bad
    if n_good >= n_bad:
        return text, {"invalid_utf8": n_bad}
    return data.decode("cp1252", "replace"), {"decoded_as_cp1252": 1}


def _replaced(text: str) -> dict[str, int | str]:
    n = text.count("\ufffd")
    return {"replaced_chars": n} if n else {}


def _utf16_without_mark(sample: bytes) -> str | None:
    half = len(sample) // 2
    if not half:
        return None
    even, odd = sample[::2].count(0) / half, sample[1::2].count(0) / half
    if odd > _MIN_NULS_UTF16 and even == 0:
        return "utf-16-le"
    return "utf-16-be" if even > _MIN_NULS_UTF16 and odd == 0 else None


def _without_front_matter(text: str) -> tuple[dict[str, Any], str]:
    found = _FRONT_MATTER.match(text[:_MAX_FRONT_MATTER_CHARS])
    if not found:
        return {}, text
    facts: dict[str, Any] = {}
    for line in found[1].splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        fact = _FACT.fullmatch(line.strip())
        # Nested values would need a YAML reader; such a header stays in the text instead of being read wrongly.
        if not fact or line[0] in " \t" or fact[2][0] in "[{|>&*!" or len(facts) >= _MAX_FACTS:
            return {}, text
        facts[fact[1]] = fact[2].strip().strip("\"'")
    return facts, text[found.end() :]
