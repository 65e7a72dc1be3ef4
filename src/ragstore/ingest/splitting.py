"""Splitting of a document's text into chunks that stay the same where the text stays the same.

A splitter that fills one chunk after the other moves every later boundary when one sentence grows, and all of
them are embedded again. Here each boundary is chosen among the places in the second half of a chunk: the end of a
paragraph before the end of a sentence, and among equals the one with the largest hash of the words that follow. An
edit therefore moves only the boundaries next to it; all others are found again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from zlib import crc32

from ragstore.model.chunk import Chunk
from ragstore.model.collection import Chunking
from ragstore.sources.markdown_sections import Section, sections_of
from ragstore.sources.readers import ReadText

# About one token each for common tokenizers: a short word or part of one, a CJK character, a mark.
_TOKEN = re.compile(r"[A-Za-z0-9_]{1,8}|[^\W\u2e80-\U0010ffff]{1,4}|\S")
# Not after a number ("1. First") and not before a small letter ("e.g. this"). The pattern begins with the mark and then
# looks back at what comes before it, so that only these few places of a text are examined.
_AFTER_MARK = r"[\"')\]»”’*_]*\s++(?![a-z])"
_SENTENCE_END = re.compile(
    rf"[.…!?。！？\n](?:(?:(?<=[^\W\d][.…])|(?<=[!?)\]\"'”»`*][.…])|(?<=[!?])){_AFTER_MARK}|(?<=[。！？])|(?<=\n)\s*\n)"
)
_RECORD_END = re.compile(r"\n\n+")
_BOUNDARIES = {"records": _RECORD_END, "lines": re.compile(r"\n(?:[ \t]*\n)*")}
_BLANK_LINES = re.compile(r"\A(?:[ \t]*\n)+")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*\Z")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")

_AFTER_WORD, _AFTER_LINE, _AFTER_SENTENCE, _AFTER_PARAGRAPH = range(4)
_HASHED_CHARS = 48
_MIN_FILL = 0.5
_MAX_GAP = 64
# Limits the memory that a text without sentences takes while it is divided.
_PIECE_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class _Unit:
    """A span that is divided only if it is too long for a chunk; ``rank`` says what its end is (``_AFTER_…``)."""

    start: int
    end: int
    n_tokens: int
    rank: int


def split(read: ReadText, chunking: Chunking) -> list[Chunk]:
    """Split at headings, then at the ends of paragraphs, sentences, lines and words, in this order of preference.

    ``read.text[chunk.start_char:chunk.end_char] == chunk.text`` for every chunk, and every character that is not
    white space is in one.
    """
    chunks: list[Chunk] = []
    for section in _sections(read):
        cut = _Cut(read, section, chunking)
        chunks.extend(cut.chunks())
    return chunks


def _sections(read: ReadText) -> Iterator[Section]:
    """Sections of a text: those that its reader has named, or those of Markdown."""
    if not read.headings:
        yield from sections_of(read.text, markdown=read.shape == "markdown")
        return
    stops = [*read.part_starts[1:], len(read.text)]
    parts = zip(read.headings, read.part_starts, stops, strict=True)
    for headings, group in groupby(parts, key=itemgetter(0)):
        spans = list(group)
        yield Section(spans[0][1], spans[-1][2], headings)


def count_tokens(text: str) -> int:
    """Length of a text in the unit of ``Chunking``, within a few percent of common tokenizers' on English."""
    return len(_TOKEN.findall(text))


class _Cut:
    """Splits one section."""

    def __init__(self, read: ReadText, section: Section, chunking: Chunking) -> None:
        self._read = read
        self._section = section
        headings = count_tokens(" ".join(section.headings))
        self._size = max(1, chunking.chunk_size - min(headings, chunking.chunk_size // 2))
        # A record is complete in itself: the end of the record before it would only be noise.
        self._overlap = 0 if read.shape == "records" else min(chunking.chunk_overlap, self._size // 2)

    def chunks(self) -> Iterator[Chunk]:
        units = list(self._units())
        previous, first = 0, 0
        while first < len(units):
            start, n_repeated = self._overlap_start(units, previous, first)
            last = self._boundary(units, first, self._size - n_repeated)
            if self._read.text[units[first].start : units[last - 1].end].strip():
                yield self._chunk(start, units[last - 1].end)
            # The unit where the text of the chunk begins: blank units before it are stripped.
            previous = next((i for i in range(first, last) if units[i].n_tokens), first)
            first = last

    def _chunk(self, start: int, end: int) -> Chunk:
        raw = self._read.text[start:end]
        text = raw.rstrip()
        # The indentation of a first line says where the lines below it belong.
        text = _BLANK_LINES.sub("", text) if self._read.shape == "lines" else text.lstrip()
        start += len(raw.rstrip()) - len(text)
        part = bisect_right(self._read.part_starts, start)
        place = self._read.places[part - 1] if part and self._read.places else {}
        return Chunk(text, start, start + len(text), self._section.headings, place)

    def _overlap_start(self, units: list[_Unit], previous: int, first: int) -> tuple[int, int]:
        """Start of a chunk that repeats the last whole units of the chunk before, and the number of repeated tokens."""
        n_tokens, i = 0, first
        # The first unit of the chunk before is never repeated: otherwise this chunk would contain all of that one.
        while i - 1 > previous and n_tokens + units[i - 1].n_tokens <= self._overlap:
            i -= 1
            n_tokens += units[i].n_tokens
        if n_tokens + units[first].n_tokens > self._size:
            return units[first].start, 0
        return units[i].start, n_tokens

    def _boundary(self, units: list[_Unit], first: int, room: int) -> int:
        """Index after the last unit of the chunk that begins with the new unit ``first``."""
        n_tokens, end = 0, first
        best, best_key = 0, (-1, -1)
        while end < len(units) and (n_tokens + units[end].n_tokens <= room or end == first):
            n_tokens += units[end].n_tokens
            end += 1
            if end < len(units) and n_tokens >= room * _MIN_FILL:
                key = (units[end - 1].rank, self._hash_at(units[end].start))
                if key >= best_key:
                    best, best_key = end, key
        return end if end == len(units) else best or end

    def _hash_at(self, start: int) -> int:
        return crc32(self._read.text[start : start + _HASHED_CHARS].encode())

    def _units(self) -> Iterator[_Unit]:
        text = self._read.text
        for start, end in self._sentences():
            n_tokens = count_tokens(text[start:end])
            if n_tokens > self._size:
                yield from self._lines(start, end)
                continue
            rank = _AFTER_PARAGRAPH if _PARAGRAPH_END.search(text, max(start, end - _MAX_GAP), end) else _AFTER_SENTENCE
            yield _Unit(start, end, n_tokens, _AFTER_LINE if self._section.in_fence(end) else rank)

    def _sentences(self) -> Iterator[tuple[int, int]]:
        boundary = _BOUNDARIES.get(self._read.shape, _SENTENCE_END)
        start, end = self._section.start, self._section.end
        for match in boundary.finditer(self._read.text, start, end):
            if match.end() > start:
                yield start, match.end()
                start = match.end()
        if start < end:
            yield start, end

    def _lines(self, start: int, end: int) -> Iterator[_Unit]:
        """Units of a sentence that is too long for one chunk, such as a table or a listing."""
        for line in _LINE.finditer(self._read.text, start, end):
            n_tokens = count_tokens(line.group())
            if n_tokens <= self._size:
                yield _Unit(line.start(), line.end(), n_tokens, _AFTER_LINE)
            else:
                yield from self._words(line.start(), line.end())

    def _words(self, start: int, end: int) -> Iterator[_Unit]:
        """Units of a line that is too long for one chunk."""
        long_word = re.compile(rf"\S{{{self._size + 1},}}\s*")
        for word in long_word.finditer(self._read.text, start, end):
            yield from self._clauses(start, word.start())
            yield from self._tokens(word.start(), word.end())
            start = word.end()
        yield from self._clauses(start, end)

    def _clauses(self, start: int, end: int) -> Iterator[_Unit]:
        text = self._read.text
        while start < end:
            stop = end if end - start <= _PIECE_CHARS else text.rfind(" ", start, start + _PIECE_CHARS) + 1
            stop = stop if stop > start else min(end, start + _PIECE_CHARS)
            # Units of a quarter of a chunk leave several boundaries to choose from.
            for clause in clauses(text[start:stop], max(1, self._size // 4), count_tokens):
                # Clauses do not overlap: each follows the one before, with only white space between them.
                first = text.index(clause, start)
                yield _Unit(start, first + len(clause), count_tokens(clause), _AFTER_WORD)
                start = first + len(clause)
            if start < stop:
                yield _Unit(start, stop, count_tokens(text[start:stop]), _AFTER_WORD)
            start = stop

    def _tokens(self, start: int, end: int) -> Iterator[_Unit]:
        """Units of a word that is too long for one chunk."""
        n_tokens = 0
        for token in _TOKEN.finditer(self._read.text, start, end):
            if n_tokens == self._size:
                yield _Unit(start, token.start(), n_tokens, _AFTER_WORD)
                start, n_tokens = token.start(), 0
            n_tokens += 1
        yield _Unit(start, end, n_tokens, _AFTER_WORD)


Count = Callable[[str], int]

# Up to eight words in one part, because the time depends on the number of parts.
CLAUSE = r"(?:[^\s,;:、，；：]+\s*){1,8}[,;:、，；：]*\s*|[\s,;:、，；：]+"

_CLAUSE = re.compile(CLAUSE)
_WORD = re.compile(r"^[^ ]+| [^ ]*")


def clauses(text: str, size: int, count: Count) -> Iterator[str]:
    """Pieces of at most ``size`` tokens, stripped, as full as their parts allow; blank ones are left out."""
    piece, n_tokens = "", 0
    for part, n_more in _parts(text, size, count):
        if n_tokens and n_tokens + n_more > size:
            if piece.strip():
                yield piece.strip()
            piece, n_tokens = "", 0
        piece += part
        n_tokens += n_more
    if piece.strip():
        yield piece.strip()


def _parts(text: str, size: int, count: Count) -> Iterator[tuple[str, int]]:
    """Parts with their numbers of tokens: clauses if they are short enough, else their words, else characters."""
    n_tokens = count(text)
    if n_tokens <= size:
        yield text, n_tokens
        return
    for cut in (_CLAUSE.findall, _WORD.findall, list):
        parts = cut(text)
        if len(parts) > 1:
            for part in parts:
                yield from _parts(part, size, count)
            return
    yield text, n_tokens
