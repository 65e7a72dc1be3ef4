"""Reader of subtitles (srt, vtt): what is said, with the time of each cue as the place."""

from __future__ import annotations

import html
import re
from typing import Any

from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

_TIME = r"(?:\d{1,3}:)?\d{1,2}:\d{1,2}"
_TIMES = re.compile(rf"[ \t]*(?P<start>{_TIME})[.,]\d{{1,3}}[ \t]*(?:-->|,)[ \t]*{_TIME}[.,]\d{{1,3}}")
_SPEAKER = re.compile(r"<v(?:\.[\w.]+)?[ \t]+([^>]{1,80})>")
_TAGS = re.compile(r"</?[A-Za-z][^<>]{0,80}>|<\d[\d:.]{1,20}>|\{\\[^{}]{0,40}\}")


def read_subtitles(data: bytes, choices: Choices) -> RawText:
    """The words of all cues, without times, numbers, tags and lines that a cue repeats of the one before."""
    text, notes = decode(data, choices)
    parts: list[str] = []
    places: list[dict[str, Any]] = []
    said: set[str] = set()
    for block in re.split(r"\n[ \t]*\n+", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.split("\n")
        at = next((i for i, line in enumerate(lines[:3]) if _TIMES.match(line)), None)
        if at is None:
            continue  # the head, notes, styles
        start = _TIMES.match(lines[at])
        words = [line for raw in lines[at + 1 :] if (line := _plain(raw))]
        # Captions that roll up show each line twice.
        new = [line for line in words if line not in said]
        said = set(words)
        if start and new:
            parts.append("\n".join(new))
            places.append({"time": _clock(start["start"])})
    if not parts and not text.lstrip("\ufeff \n").startswith("WEBVTT"):
        return RawText([text], notes=notes)  # no subtitles
    return RawText(parts, "prose", notes=notes, places=places, separator="\n")


def _plain(line: str) -> str:
    return html.unescape(_TAGS.sub("", _SPEAKER.sub(r"\1: ", line))).strip()


def _clock(start: str) -> str:
    fields = [int(field) for field in start.split(":")]
    hours, minutes, seconds = [0] * (3 - len(fields)) + fields
    return f"{hours:02}:{minutes:02}:{seconds:02}"
