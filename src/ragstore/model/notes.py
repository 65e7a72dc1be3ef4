"""Notes of readings: what a person would want to know about how a document was read, by name, as sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping

Notes = Mapping[str, int | str]
"""Counts of what was replaced, left out or guessed, and names of guesses, e.g. ``{"nul_bytes": 3}``."""

NOTES: dict[str, str] = {
    "bom": "{} byte order marks removed from the text",
    "control_chars": "{} control characters removed",
    "damaged_parts": "{} damaged parts of a mail not read",
    "decoded_as": "decoded as {}",
    "decoded_as_cp1252": "decoded as windows-1252",
    "empty": "empty",
    "encrypted_parts": "{} encrypted parts of a mail not read",
    "inline_images": "{} inline images left out",
    "invalid_utf8": "{} damaged characters of UTF-8 replaced",
    "lone_surrogates": "{} half characters replaced",
    "names_decoded_as": "names decoded as {}",
    "nul_bytes": "{} NUL bytes removed",
    "replaced_chars": "{} characters replaced that the encoding does not have",
    "resources_left_out": "{} resources of a saved page left out",
    "signatures": "{} signatures left out",
    "unread_rtf_bodies": "{} bodies in RTF not read",
    "unread_winmail_parts": "{} parts of winmail.dat not read",
}
"""A sentence for each note, ``{}`` being its value; a count comes first, before the plural of what is counted."""

LOSSES = frozenset(
    {
        "damaged_parts",
        "decoded_as",
        "decoded_as_cp1252",
        "encrypted_parts",
        "invalid_utf8",
        "lone_surrogates",
        "replaced_chars",
        "unread_rtf_bodies",
        "unread_winmail_parts",
    }
)
"""Notes that mean that text may be missing or wrong; a strict ingest stores no document with one of them."""

_PLURAL = re.compile(r"\b\w+[^\Ws]s\b")


def sentences(notes: Notes) -> list[str]:
    """What the notes say: ``decoded as shift_jis``, ``9 pages without text``."""
    return [_sentence(name, value) for name, value in sorted(notes.items())]


def kinds(notes: Notes) -> list[str]:
    """The same without the counts, to count documents by: ``decoded as shift_jis``, ``pages without text``."""
    return [
        template(name).format(value) if isinstance(value, str) else template(name).replace("{} ", "")
        for name, value in sorted(notes.items())
    ]


def losses(notes: Notes, *, chosen_encoding: str = "") -> dict[str, int | str]:
    """The notes that mean that text may be missing or wrong.

    Args:
        chosen_encoding: an encoding that the deployment chose; a text that was decoded by it is no guess.
    """
    return {
        name: value
        for name, value in notes.items()
        if name in LOSSES and not (name == "decoded_as" and value == chosen_encoding)
    }


def template(name: str) -> str:
    """The sentence of a note; of one that this version does not know, its name."""
    return NOTES.get(name) or f"{{}} {name.replace('_', ' ')}"


def _sentence(name: str, value: int | str) -> str:
    text = template(name)
    if value == 1:
        text = _PLURAL.sub(lambda found: _singular(found[0]), text, count=1)
    return text.format(f"{value:,}" if isinstance(value, int) else value)


def _singular(noun: str) -> str:
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    return noun.removesuffix("es") if noun.endswith(("xes", "ches", "shes", "sses")) else noun.removesuffix("s")
