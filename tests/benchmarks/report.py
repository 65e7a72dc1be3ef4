"""Results into files."""

from __future__ import annotations

import json
import os

from tests.benchmarks.figures import Results
from tests.benchmarks.page import page


def write_results(results: Results, path: str) -> None:
    """All values, for programs."""
    _write(path, json.dumps(results.as_dict(), indent=2, ensure_ascii=False) + "\n")


def write_page(results: Results, path: str, *, picture: str | None) -> None:
    """The page for people, the picture linked from where it stands."""
    _write(path, page(results, picture=picture, directory=os.path.dirname(os.path.abspath(path))))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
