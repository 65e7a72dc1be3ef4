"""Notes of readings: what a person would want to know about how a document was read, by name, as sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping

Notes = Mapping[str, int | str]
"""Counts of what was replaced, left out or guessed, and names of guesses, e.g. ``{"nul_bytes": 3}``."""

NOTES: dict[str, str] = {
    "base64_left_out": "{} runs of base64 left out",
    "blank_pages": "{} blank pages",
    "bom": "{} byte order marks removed from the text",
    "charts_left_out": "{} chart sheets left out",
    "comments": "{} comments read",
    "control_chars": "{} control characters removed",
    "controls_unfilled": "{} prompts of empty form controls left out",
    "damaged_parts": "{} damaged parts left out",
    "decoded_as": "decoded as {}",
    "embedded_documents_left_out": "{} embedded documents left out",
    "empty": "empty",
    "encrypted_parts": "{} encrypted parts of a mail not read",
    "equations_left_out": "{} equations left out",
    "error_cells": "{} cells with an error such as #N/A left empty",
    "front_matter_unread": "{} blocks of front matter unread, which stay in the text",
    "header_guessed": "{} headers of tables guessed",
    "hidden_sheets": "{} hidden sheets read",
    "hidden_slides": "{} hidden slides read",
    "hidden_words": "{} hidden words left out",
    "images_left_out": "{} images left out",
    "invalid_utf8": "{} damaged characters of UTF-8 replaced",
    "invisible_chars": "{} invisible characters removed",
    "json_mended": "{} places of JSON mended",
    "lines_unread": "{} lines of JSON left out",
    "lone_surrogates": "{} half characters replaced",
    "missing_chapters": "{} chapters named and not there",
    "names_decoded_as": "names decoded as {}",
    "nul_bytes": "{} NUL bytes removed",
    "only_a_title": "{} titles without any other text",
    "other_files_left_out": "{} other files named and not opened",
    "outputs_cut": "{} outputs cut",
    "pages_unreadable": "{} pages that cannot be read",
    "pages_without_text": "{} pages without text",
    "replaced_chars": "{} characters replaced that the encoding does not have",
    "resources_left_out": "{} resources of a saved page left out",
    "signatures": "{} signatures left out",
    "stray_bytes_as_cp1252": "{} stray bytes decoded as windows-1252",
    "symbols_left_out": "{} symbols of unknown fonts left out",
    "terminal_codes": "{} terminal codes removed",
    "unknown_entities": "{} entities left as they are written",
    "unread_rtf_bodies": "{} bodies in RTF not read",
    "unread_winmail_parts": "{} parts of winmail.dat not read",
    "xfa_forms": "{} XFA forms whose values cannot be read",
}
"""A sentence for each note, ``{}`` being its value; a count comes first, before the plural of what is counted."""

LOSSES = frozenset(
    {
        "charts_left_out",
        "damaged_parts",
        "decoded_as",
        "embedded_documents_left_out",
        "encrypted_parts",
        "equations_left_out",
        "invalid_utf8",
        "lines_unread",
        "lone_surrogates",
        "missing_chapters",
        "other_files_left_out",
        "outputs_cut",
        "pages_unreadable",
        "pages_without_text",
        "replaced_chars",
        "stray_bytes_as_cp1252",
        "symbols_left_out",
        "unread_rtf_bodies",
        "unread_winmail_parts",
        "xfa_forms",
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
