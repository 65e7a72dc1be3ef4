"""Real text that every machine has: its own documentation, and Python's library with its docstrings."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import sysconfig
import zlib
from collections.abc import Iterator

_PLACES = (
    ("/usr/share/doc", (".txt", ".md", ".rst", ".html", ".gz")),
    (sysconfig.get_path("stdlib"), (".py", ".txt", ".rst")),
    (sysconfig.get_path("purelib"), (".md", ".rst", ".txt", ".py")),
)
_MIN_BYTES, _MAX_BYTES = 1_500, 150_000
_PIECE_CHARS = 700
_PARAGRAPHS = re.compile(r"\n\s*\n")


def texts() -> Iterator[str]:
    """Texts of some length, none twice, in an order that stays the same on a machine."""
    seen = set()
    for folder, endings in _PLACES:
        for path in _files(folder, endings):
            text = _text_of(path)
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if _MIN_BYTES <= len(text) <= _MAX_BYTES and digest not in seen:
                seen.add(digest)
                yield text


def write_texts(folder: str, n_bytes: int) -> tuple[int, int]:
    """Write files of about so many bytes together; returns how many files and bytes there are."""
    os.makedirs(folder)
    n_files = written = 0
    for text in texts():
        if written >= n_bytes:
            break
        written += write_text(os.path.join(folder, f"{n_files:05}.txt"), text)
        n_files += 1
    return n_files, written


def write_pieces(folder: str, n_files: int) -> int:
    """Write so many small files, each one chunk long; returns how many there are.

    Pieces come again, numbered, where the machine has too little text.
    """
    os.makedirs(folder)
    n_written = 0
    while n_written < n_files:
        before = n_written
        for piece in _pieces():
            if n_written == n_files:
                break
            place = os.path.join(folder, f"{n_written // 500:03}")
            os.makedirs(place, exist_ok=True)
            write_text(os.path.join(place, f"{n_written:06}.txt"), f"Piece {n_written}.\n\n{piece}\n")
            n_written += 1
        if n_written == before:
            break
    return n_written


def write_text(path: str, text: str) -> int:
    """Returns the file's bytes."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return os.path.getsize(path)


def _pieces() -> Iterator[str]:
    for text in texts():
        piece = ""
        for paragraph in _PARAGRAPHS.split(text):
            piece += f"{paragraph}\n\n"
            if len(piece) >= _PIECE_CHARS:
                yield piece[:_PIECE_CHARS]
                piece = ""


def _files(folder: str, endings: tuple[str, ...]) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", "site-packages", "test", "tests"))
        yield from (os.path.join(place, name) for name in sorted(names) if name.endswith(endings))


def _text_of(path: str) -> str:
    """Nothing for what is no text, too long, or cannot be read."""
    try:
        if os.path.islink(path) or os.path.getsize(path) > _MAX_BYTES:
            return ""
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        return data.decode("utf-8").replace("\0", "")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error):
        return ""
