"""Real documents and two sets of questions about them, made from Debian's packages of the PostgreSQL and Python manuals.

``terms`` are entries of the manuals' own indexes, which the pages they point to should answer. ``natural`` are the
questions of Python's FAQ and the one-line purposes of PostgreSQL's reference pages, as questions; neither stands in the
documents any more, so that only the text under it can answer.
"""

from __future__ import annotations

import argparse
import html
import json
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

PACKAGES = ("postgresql-doc-15", "python3.11-doc")
N_TERMS = 200
"""Of each manual's index."""

_ENTRY = re.compile(r'<dt id="ientry-[^"]*">(.*?)</dt>', re.DOTALL)
_PYTHON_ENTRY = re.compile(r'<li><a href="([^"#]+)#[^"]*">([^<(]+)(?:\(\))?(?: \([^<]*\))?</a>')
_HREF = re.compile(r'href="([^"#]+)')
_PURPOSE = re.compile(r'<div class="refnamediv">.*?</div>', re.DOTALL)
_FAQ = re.compile(r'<section id="[^"]+">\s*<h3>(.*?)</h3>(.*?)</section>', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True)
class Asked:
    """A question, and the files of the folder that answer it."""

    kind: Literal["terms", "natural"]
    text: str
    files: tuple[str, ...]


def build(folder: Path, *, seed: int = 1) -> list[Asked]:
    """Unpack the manuals into ``folder/pages`` and return the questions, which ``folder/questions.json`` has too."""
    pages = folder / "pages"
    with tempfile.TemporaryDirectory() as unpacked:
        _download(Path(unpacked))
        documents = Path(unpacked) / "usr/share/doc"
        postgres, python = documents / "postgresql-doc-15/html", documents / "python3.11/html"
        asked = [*_postgres(postgres, pages / "postgres"), *_python(python, pages / "python")]
    rng = random.Random(seed)
    terms = [
        [one for one in asked if one.kind == "terms" and one.files[0].startswith(m)] for m in ("postgres", "python")
    ]
    chosen = [one for of_manual in terms for one in rng.sample(of_manual, min(N_TERMS, len(of_manual)))]
    chosen += [one for one in asked if one.kind == "natural"]
    (folder / "questions.json").write_text(json.dumps([asdict(one) for one in chosen], indent=1), encoding="utf-8")
    return chosen


def _download(folder: Path) -> None:
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=folder, check=True, capture_output=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)


def _postgres(source: Path, target: Path) -> Iterator[Asked]:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.html")):
        if path.name in {"bookindex.html", "index.html"}:
            continue
        text = path.read_text(encoding="utf-8")
        purpose = _PURPOSE.search(text)
        if purpose:
            words = _plain(purpose[0]).partition("\u2014")[2].strip()
            text = text.replace(purpose[0], "")
            yield Asked("natural", f"How do I {words}?", (f"postgres/{path.name}",))
        (target / path.name).write_text(text, encoding="utf-8")
    index = (source / "bookindex.html").read_text(encoding="utf-8")
    for entry in _ENTRY.findall(index):
        term, files = _plain(entry).split(",")[0].strip(), sorted(set(_HREF.findall(entry)))
        if files and len(term) > 2:
            yield Asked("terms", term, tuple(f"postgres/{name}" for name in files))


def _python(source: Path, target: Path) -> Iterator[Asked]:
    for part in ("faq", "howto", "library", "reference", "tutorial", "using"):
        (target / part).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / part).glob("*.html")):
            text = path.read_text(encoding="utf-8")
            if part != "faq":
                (target / part / path.name).write_text(text, encoding="utf-8")
                continue
            for number, (heading, body) in enumerate(_FAQ.findall(text)):
                name = f"{part}/{path.stem}-{number}.html"
                title = f"<html><head><title>{path.stem}</title></head><body>"
                (target / name).write_text(f"{title}{body}</body></html>", encoding="utf-8")
                yield Asked("natural", _plain(heading).rstrip("\u00b6").strip(), (f"python/{name}",))
    index = "".join(path.read_text(encoding="utf-8") for path in sorted(source.glob("genindex-?.html")))
    files: dict[str, set[str]] = {}
    for file, term in _PYTHON_ENTRY.findall(index):
        if (target / file).exists():
            files.setdefault(html.unescape(term).strip(), set()).add(f"python/{file}")
    for term, names in files.items():
        if len(names) == 1 and len(term) > 2:
            yield Asked("terms", term, tuple(names))


def _plain(markup: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", markup)).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked = build(folder)
    for kind in ("terms", "natural"):
        print(f"{kind}: {sum(one.kind == kind for one in asked)} questions")


if __name__ == "__main__":
    main()
