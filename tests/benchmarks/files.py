"""How readers read real documents: what was noted and refused, words against an independent reader, and time.

``python -m tests.benchmarks.files FOLDER --family html [--against OTHER/src] [--limit N] [--list N]``

A family of formats is its suffixes and a reader that shares no code with ragstore's; another family is one more entry
of ``FAMILIES``. Words are compared as bags, so that their order does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

GOAL = 0.995
_WORD = re.compile(r"\w+")
_MARKS = re.compile("^[ >]*\\d+\\. |[`\xad\u200b]", re.MULTILINE)
_DECLARED = re.compile(rb"(?:charset|encoding)\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_UNSEEN = frozenset("script style noscript template iframe object nav select datalist head title canvas rp".split())
_INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd mark s samp small span strike strong".split()
)
_GLUED = _INLINE | frozenset("tt u var wbr sub".split())
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())


@dataclass(frozen=True)
class Family:
    """Formats that are measured together.

    Args:
        suffixes: of the files that are taken, in small letters.
        words_of: text of a file's bytes by a reader that shares no code with ragstore's.
    """

    suffixes: tuple[str, ...]
    words_of: Callable[[bytes], str]


def html_text(data: bytes) -> str:
    """Text between the tags of a page, by the parser of the standard library."""
    parser = _Text()
    parser.feed(_decoded(data))
    parser.close()
    return "".join(parser.pieces)


def plain_text(data: bytes) -> str:
    """The bytes as the encoding that they declare, or UTF-8, or Windows-1252."""
    return _decoded(data, declared=False)


FAMILIES = {
    "html": Family((".html", ".htm", ".xhtml"), html_text),
    "text": Family((".txt", ".md", ".rst", ".text", ".log"), plain_text),
}


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._unseen = ""  # the element that is left out now
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._unseen = ""
        if self._unseen:
            self._depth += tag == self._unseen
        elif tag not in _VOID and _is_unseen(tag, dict(attrs)):
            self._unseen, self._depth = tag, 1
        elif tag == "img":
            self.pieces.append(f" {dict(attrs).get('alt') or ''} ")
        if tag not in _GLUED:
            self.pieces.append(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._depth -= 1
            self._unseen = self._unseen if self._depth else ""
        if tag not in _GLUED:
            self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data)


def _is_unseen(tag: str, attributes: dict[str, str | None]) -> bool:
    hidden = "hidden" in attributes or "display:none" in (attributes.get("style") or "").replace(" ", "")
    return tag in _UNSEEN or hidden or attributes.get("role") in {"navigation", "search"}


def _decoded(data: bytes, *, declared: bool = True) -> str:
    found = _DECLARED.search(data[:4096]) if declared else None
    for encoding in ([found[1].decode()] if found else []) + ["utf-8"]:
        try:
            return data.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            continue
    return data.decode("cp1252", "replace")


@dataclass
class Result:
    """What became of one file."""

    name: str
    ms: float
    notes: dict[str, int | str] = field(default_factory=dict)
    refused: str = ""
    recall: float = 1.0
    precision: float = 1.0
    n_words: int = 0
    lost: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)


def read_all(names: Iterable[str]) -> dict[str, tuple[float, str]]:
    """For each file the time in milliseconds, and its text, or nothing if it was refused."""
    from ragstore.errors import ContentError
    from ragstore.sources.readers import load_readers, read

    load_readers()
    results = {}
    for name in names:
        data = Path(name).read_bytes()
        start = time.perf_counter()
        try:
            text = read(data, name).text
        except ContentError:
            text = ""
        results[name] = (1000 * (time.perf_counter() - start), text)
    return results


def measure(names: list[str], family: Family) -> list[Result]:
    """Read each file and compare its words with those of the independent reader."""
    from ragstore.errors import ContentError
    from ragstore.sources.readers import load_readers, read

    load_readers()
    results = []
    for name in names:
        data = Path(name).read_bytes()
        start = time.perf_counter()
        try:
            document = read(data, name)
        except ContentError as error:
            results.append(Result(name, 1000 * (time.perf_counter() - start), refused=error.message))
            continue
        result = Result(name, 1000 * (time.perf_counter() - start), dict(document.notes))
        _compare(result, document.text, family.words_of(data))
        results.append(result)
    return results


def _compare(result: Result, text: str, other: str) -> None:
    ours, theirs = _bag(text), _bag(other)
    common = (ours & theirs).total()
    result.n_words = theirs.total()
    result.recall = common / theirs.total() if theirs else 1.0
    result.precision = common / ours.total() if ours else 1.0
    result.lost = [word for word, _ in (theirs - ours).most_common(8)]
    result.added = [word for word, _ in (ours - theirs).most_common(8)]


def _bag(text: str) -> Counter[str]:
    # Numbers of lists and marks of code are written by ragstore, and drawn by a browser.
    plain = _MARKS.sub("", text)
    return Counter(_WORD.findall(unicodedata.normalize("NFKC", plain)))


def _against(source: str, names: list[str]) -> float:
    """Milliseconds per file of the readers in another checkout, in a process of its own."""
    code = (
        "import json, sys, time\nfrom pathlib import Path\nfrom ragstore.sources.readers import load_readers, read\n"
        "load_readers()\nspent = 0.0\nfor name in json.load(sys.stdin):\n    data = Path(name).read_bytes()\n"
        "    start = time.perf_counter()\n    try:\n        read(data, name)\n    except Exception:\n        pass\n"
        "    spent += time.perf_counter() - start\nprint(spent)"
    )
    env = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(names), env=env, text=True, stdout=subprocess.PIPE, check=True
    )
    return 1000 * float(done.stdout) / max(1, len(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--against", help="folder src of another checkout, whose time is measured too")
    parser.add_argument("--limit", type=int, default=0, help="only so many files, evenly chosen")
    parser.add_argument("--list", type=int, default=20, help="so many of the files below the goal are shown")
    args = parser.parse_args()
    family = FAMILIES[args.family]
    names = sorted(
        str(path)
        for path in args.folder.rglob("*")
        if path.suffix.lower() in family.suffixes and path.is_file() and not path.is_symlink()
    )
    names = names[:: max(1, len(names) // args.limit)] if args.limit else names
    results = measure(names, family)
    _report(results, args.list)
    if args.against:
        print(f"against {_against(args.against, names):.2f} ms per file")


def _report(results: list[Result], n_listed: int) -> None:
    read = [result for result in results if not result.refused]
    n_words = sum(result.n_words for result in read) or 1
    notes = Counter(note for result in read for note in result.notes)
    print(f"{len(results)} files, {len(read)} read, {sum(bool(r.notes) for r in read)} noted {dict(notes)}")
    print(f"refused: {dict(Counter(result.refused for result in results if result.refused))}")
    print(
        f"recall {sum(r.recall * r.n_words for r in read) / n_words:.5f}, precision {sum(r.precision * r.n_words for r in read) / n_words:.5f}"
    )
    below = sorted((r for r in read if min(r.recall, r.precision) < GOAL), key=lambda r: min(r.recall, r.precision))
    print(
        f"{len(below)} of {len(read)} below {GOAL}; {sum(r.ms for r in results) / max(1, len(results)):.2f} ms per file"
    )
    for result in below[:n_listed]:
        print(
            f"{result.recall:.3f} {result.precision:.3f} {result.name}\n    lost {result.lost}\n    added {result.added}"
        )


if __name__ == "__main__":
    main()
