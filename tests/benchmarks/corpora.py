"""Texts: real documentation of this machine, and synthetic logs, order rows, mail and lone texts."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from itertools import islice

_PLACES = (
    ("/usr/share/doc", (".txt", ".md", ".rst", ".html", ".gz")),
    (sysconfig.get_path("stdlib"), (".py", ".txt", ".rst")),
    (sysconfig.get_path("purelib"), (".md", ".rst", ".txt", ".py")),
)
_MIN_BYTES, _MAX_BYTES = 1_500, 150_000
_PIECE_CHARS = 700
_PARAGRAPHS = re.compile(r"\n\s*\n")
CHUNK_CHARS = 900

LONE = {
    "how do I reset the router": "reset the router by holding the button for ten seconds until the lamp blinks",
    "when must the pump filter be changed": "the pump filter is replaced every six months; close both valves first",
    "how many days of holiday do I get": "paid leave is twenty five days a year and is asked for in the portal",
    "the fuser of the printer is hot": "the printer shows E-4711 when the fuser is too hot: switch it off for an hour",
    "how is the coffee machine cleaned": "the coffee machine is descaled with citric acid on the first Monday",
    "what must visitors do at the entrance": "visitors sign in at the front desk and wear a badge",
    "when do they test the fire alarm": "the fire alarm is tested on Thursdays at noon",
    "how long until travel costs are paid back": "travel costs are refunded two weeks after receipts are handed in",
    "how does the parking gate open": "the car park gate opens with the number 4 0 2",
    "how to order a new notebook computer": "a new laptop is ordered from the service desk with the form IT-7",
    "when is the greenhouse watered": "the greenhouse is watered by a timer at six in the morning",
    "swimming course for kids": "swimming lessons for children start in September",
    "where does the choir practise": "the choir rehearses in the old chapel on Wednesdays",
    "how long does the cheese mature": "the cheese ripens for ninety days in a cellar at eleven degrees",
    "which patients are treated first": "a patient with fever above 39 degrees is seen first",
    "how do I tune a violin": "the violin is tuned in fifths from the A string",
    "how much ice has the glacier lost": "the glacier lost thirty metres of ice in ten years",
    "what is the interest rate of the loan": "interest on the loan is 3.2 percent and fixed for ten years",
    "may heavy trucks use the bridge": "the bridge is closed for trucks heavier than twelve tonnes",
    "ingredients of the recipe with eggs": "the recipe asks for two eggs, flour, milk and a pinch of salt",
}
"""Questions, and the texts that answer them and resemble nothing else."""


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
    """Text of a file; empty where it is no text, too long or unreadable."""
    try:
        if os.path.islink(path) or os.path.getsize(path) > _MAX_BYTES:
            return ""
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        return data.decode("utf-8").replace("\0", "")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error):
        return ""


def documentation() -> Iterator[str]:
    """Real text, cut into chunks at lines."""
    for text in texts():
        chunk = ""
        for line in filter(None, (line.strip() for line in text.split("\n"))):
            for begin in range(0, len(line), CHUNK_CHARS):
                part = line[begin : begin + CHUNK_CHARS]
                if chunk and len(chunk) + len(part) > CHUNK_CHARS:
                    yield chunk
                    chunk = ""
                chunk += f"{part}\n"
        if chunk:
            yield chunk


def logs(seed: int = 1) -> Iterator[str]:
    """Nine lines of one application's log each."""
    chance = random.Random(seed)

    def line() -> str:
        when = f"2024-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}T{chance.randrange(24):02}:33:10Z"
        return (
            f"{when} INFO http request GET /api/v1/items/{chance.randrange(10_000)} "
            f"status {chance.choice([200, 404, 500])} duration {chance.randrange(900)} ms"
        )

    while True:
        yield "\n".join(line() for _ in range(9))


def order_rows(seed: int = 2) -> Iterator[str]:
    """Eight rows of a table of orders each."""
    chance = random.Random(seed)
    names = ("Alice", "Bob", "Carla", "Dmitri", "Eva", "Farid", "Grace", "Hiro")
    items = ("bolt M8", "washer", "gasket 40 mm", "valve DN25", "hose 2 m", "bearing 6204", "relay 24 V")

    def row() -> str:
        return (
            f"order_id: {chance.randrange(10**6)}, customer: {chance.choice(names)} {chance.randrange(1_000)}, "
            f"item: {chance.choice(items)}, quantity: {chance.randrange(1, 100)}, date: 2023-{chance.randrange(1, 13):02}"
        )

    while True:
        yield "\n".join(row() for _ in range(8))


def mail(seed: int = 3) -> Iterator[str]:
    """Letters of sentences that stand in documentation."""
    chance = random.Random(seed)
    names = ("anna", "ben", "chris", "dora", "emil", "fatma")
    sentences = [s for chunk in islice(documentation(), 4_000) for s in re.findall(r"[A-Z][^.\n]{30,120}\.", chunk)]
    while True:
        body = " ".join(chance.choice(sentences) for _ in range(chance.randrange(2, 6)))
        yield f"From: {chance.choice(names)}\nTo: {chance.choice(names)}\n\nHi,\n{body}\nBest regards, {chance.choice(names)}"


Made = Callable[[], Iterator[str]]
PARTS: dict[str, tuple[Made, float]] = {
    "documentation": (documentation, 0.2),
    "logs": (logs, 0.4),
    "rows": (order_rows, 0.25),
    "mail": (mail, 0.15),
}
"""What a mixture consists of, and its share of it; where a machine has less documentation, there are more logs."""


def mixture(n_chunks: int) -> dict[str, list[str]]:
    """About so many chunks, by part, the lone texts among them."""
    made = {name: list(islice(make(), round(share * n_chunks))) for name, (make, share) in PARTS.items()}
    n_missing = n_chunks - sum(map(len, made.values()))
    made["logs"] += islice(logs(seed=4), max(0, n_missing))
    return {"lone": list(LONE.values()), **made}


def phrases(chunks: list[str], n: int, *, n_words: int, seed: int = 5) -> list[str]:
    """Words out of the middle of some chunks: a question of a dozen, or a term of two."""
    chance = random.Random(seed)
    found = []
    for chunk in chance.choices(chunks, k=n):
        words = re.findall(r"\w{3,}", chunk) or ["text"]
        begin = max(0, len(words) // 2 - n_words // 2)
        found.append(" ".join(words[begin : begin + n_words]))
    return found
