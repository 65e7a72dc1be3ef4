"""Runbooks as they stand in ``stack/runbooks``, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "stack/runbooks"
SECTIONS = ("Symptom", "Check", "Do", "Verify", "Undo")

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_STATUS = re.compile(r"(?P<command>.*?)\s+# exits (?P<status>\d+)\s*")


@dataclass(frozen=True, slots=True)
class Command:
    """One line of a page; ``status`` is the exit status that the page promises."""

    line: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A runbook.

    Args:
        sections: their texts, by heading, in the order of the page.
    """

    name: str
    title: str
    sections: dict[str, str]

    def commands(self, section: str) -> list[Command]:
        """The lines of the section's ``sh`` blocks."""
        lines = [line for block in _BLOCK.findall(self.sections[section]) for line in block.splitlines()]
        return [_command(line) for line in lines if line.strip()]


def read_page(path: Path) -> Page:
    """A page by its file."""
    title, *rest = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = (part.partition("\n") for part in rest)
    return Page(path.stem, title.strip().removeprefix("# "), {heading.strip(): text for heading, _, text in parts})


def all_pages() -> dict[str, Page]:
    """All runbooks by name; the overview is none."""
    return {path.stem: read_page(path) for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"}


def _command(line: str) -> Command:
    found = _STATUS.fullmatch(line)
    return Command(found["command"], int(found["status"])) if found else Command(line)
