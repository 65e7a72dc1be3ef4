"""Real documents that every machine with this project's virtual environment has."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path
from pydoc_data.topics import topics

MIN_CHARS = 400
"""Shorter descriptions say no more than a package's name."""


def write_corpus(folder: Path) -> int:
    """Write the Python language reference and the manuals of the installed packages; returns how many documents."""
    reference, packages = folder / "python-reference", folder / "packages"
    for parent in (reference, packages):
        parent.mkdir(parents=True, exist_ok=True)
    documents = {reference / f"{_file_name(topic)}.txt": text for topic, text in topics.items()}
    for distribution in distributions():
        metadata = distribution.metadata
        text = metadata.get_payload() or metadata.get("Description") or ""
        # Our own manual would answer questions about everybody else's.
        if len(text) >= MIN_CHARS and metadata["Name"] != "ragstore":
            documents[packages / f"{_file_name(metadata['Name'])}.md"] = text
    for path, text in documents.items():
        path.write_text(text, encoding="utf-8", errors="replace")
    return len(documents)


def _file_name(title: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in title).strip("-") or "untitled"


if __name__ == "__main__":
    print(write_corpus(Path(sys.argv[1])))
