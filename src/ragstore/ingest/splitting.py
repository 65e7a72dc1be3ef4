"""Splitting of a document's text into chunks that stay the same where the text stays the same.

A splitter that fills one chunk after the other moves every later boundary when one sentence grows, and all of
them are embedded again. Here each boundary is chosen among the places in the second half of a chunk: the end of a
paragraph before the end of a sentence, and among equals the one with the largest hash of what follows. An edit
therefore moves only the boundaries next to it; all others are found again. Text without such ends, even without
spaces, is first divided into small pieces by the same rule.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice, pairwise
from operator import itemgetter
from zlib import crc32

from ragstore.model.chunk import Chunk
from ragstore.model.collection import Chunking
from ragstore.sources.markdown_sections import Section, Table, cells_of, sections_of
from ragstore.sources.raw import real_title
from ragstore.sources.readers import ReadText

# About one token each for common tokenizers: a short word or part of one, a CJK character, a mark.
_TOKEN = re.compile(r"[A-Za-z0-9_]{1,8}|[^\W\u2e80-\U0010ffff]{1,4}|\S")
# Not after a number ("1. First") and not before a small letter ("e.g. this"). The pattern begins with the mark and then
# looks back at what comes before it, so that only these few places of a text are examined.
_AFTER_MARK = r"[\"')\]»”’*_]*\s++(?![a-z])"
_SENTENCE_END = re.compile(
    rf"[.…!?。！？\n](?:(?:(?<=[^\W\d][.…])|(?<=[!?)\]\"'”»`*][.…])|(?<=[!?])){_AFTER_MARK}|(?<=[。！？])|(?<=\n)\s*\n)"
)
_CLAUSE_END = re.compile(r"[,;:、，；：]+\s*")
_SPACE = re.compile(r"\s+")
_LINES_END = re.compile(r"\n(?:[ \t]*\n)*")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*\Z")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")

_INSIDE_WORD, _AFTER_WORD, _AFTER_CLAUSE, _AFTER_LINE, _AFTER_SENTENCE, _AFTER_PARAGRAPH = range(6)
_HASHED_CHARS = 48
_MIN_FILL = 0.5
_MAX_GAP = 64
_PIECES_PER_CHUNK = 8
_MAX_INDENT = 200
_PATHLESS = ("records", "lines")


@dataclass(frozen=True, slots=True)
class _Unit:
    """A span that is not divided; ``rank`` says what its end is (``_AFTER_…``)."""

    start: int
    end: int
    n_tokens: int
    rank: int


def split(read: ReadText, chunking: Chunking) -> list[Chunk]:
    """Split at headings, then at the ends of paragraphs, sentences, lines, clauses and words, in this order.

    ``read.text[chunk.start_char:chunk.end_char] == chunk.text[chunk.n_repeated:]`` for every chunk, and every
    character that is not white space is in one. What is repeated is the header of a table in which the chunk begins,
    the name of its sheet, or the path of its class and function.
    """
    chunks: list[Chunk] = []
    for section in _sections(read):
        chunks.extend(_Cut(read, section, chunking).chunks())
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
        self._size = max(1, chunking.chunk_size)
        # A record is complete in itself: the end of the record before it would only be noise.
        self._overlap = 0 if read.shape == "records" else min(chunking.chunk_overlap, self._size // 2)
        self._heads: dict[int, tuple[str, int]] = {}
        # Rows and code hardly say in which sheet or class they lie; of prose, the text under a heading says it.
        self._path = [title for title in section.headings if real_title(title)] if read.shape in _PATHLESS else []
        self._n_path = count_tokens(_path_line(self._path))
        if self._n_path > self._size // 4:
            self._path, self._n_path = [], 0

    def chunks(self) -> Iterator[Chunk]:
        units = list(self._units())
        previous, first = 0, 0
        while first < len(units):
            begin, n_repeated = self._overlap_start(units, previous, first)
            last = self._boundary(units, first, self._size - n_repeated)
            start, end = units[begin].start, units[last - 1].end
            if self._read.text[units[first].start : end].strip():
                yield self._chunk(start, end)
            # The unit where the text of the chunk begins: blank units before it are stripped.
            previous = next((i for i in range(first, last) if units[i].n_tokens), first)
            first = last

    def _chunk(self, start: int, end: int) -> Chunk:
        raw = self._read.text[start:end]
        text = raw.strip()
        start += len(raw) - len(raw.lstrip())
        is_indented = "\n" in text or self._read.shape == "lines"
        indent = self._indent(start) if is_indented else ""
        start, text = start - len(indent), indent + text
        part = bisect_right(self._read.part_starts, start)
        place = self._read.places[part - 1] if part and self._read.places else {}
        own = [title for title in self._path if title not in text]
        head = _path_line(own) if self._path else self._head(start)[0]
        return Chunk(head + text, start, start + len(text), self._section.headings, place)

    def _indent(self, start: int) -> str:
        """The white space between the begin of the line and this offset, if there is nothing else."""
        text, line = self._read.text, start
        while line > max(0, start - _MAX_INDENT) and text[line - 1] in " \t":
            line -= 1
        return text[line:start] if line == 0 or text[line - 1] == "\n" else ""

    def _overlap_start(self, units: list[_Unit], previous: int, first: int) -> tuple[int, int]:
        """Index of the unit with which a chunk begins, to repeat the last whole units of the chunk before.

        Also the number of repeated tokens, those of a table's header included.
        """
        n_tokens, i = 0, first
        # The first unit of the chunk before is never repeated: otherwise this chunk would contain all of that one.
        # Nor are pieces of a line that is too long, which are no sentences.
        while i - 1 > previous and n_tokens + units[i - 1].n_tokens <= self._overlap:
            if units[i - 1].rank <= _AFTER_CLAUSE:
                break
            i -= 1
            n_tokens += units[i].n_tokens
        n_head = self._head(units[i].start)[1]
        if n_tokens + n_head + units[first].n_tokens > self._size:
            return first, self._head(units[first].start)[1]
        return i, n_tokens + n_head

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

    def _head(self, start: int) -> tuple[str, int]:
        """What a chunk that begins at this offset repeats, at most, and how many tokens that has."""
        if self._path:
            return _path_line(self._path), self._n_path
        table = self._section.table_at(start)
        if table is None or start < table.body:
            return "", 0
        if table.start not in self._heads:
            head = _short_head(self._read.text[table.start : table.body], self._size // 2)
            self._heads[table.start] = head, count_tokens(head)
        return self._heads[table.start]

    def _units(self) -> Iterator[_Unit]:
        if self._read.shape == "records":
            yield from self._records()
            return
        if self._read.shape == "lines":
            yield from self._single_lines()
            return
        at = self._section.start
        for table in self._section.own_tables():
            yield from self._prose(at, table.start)
            yield from self._rows(table)
            at = table.end
        yield from self._prose(at, self._section.end)

    def _records(self) -> Iterator[_Unit]:
        starts = self._read.part_starts
        inside = starts[bisect_right(starts, self._section.start) : bisect_left(starts, self._section.end)]
        for start, end in pairwise([self._section.start, *inside, self._section.end]):
            yield from self._whole_or_lines(start, end, _AFTER_PARAGRAPH)

    def _single_lines(self) -> Iterator[_Unit]:
        """Lines, each with the empty lines below it; a line before empty ones ends a paragraph."""
        text, start, end = self._read.text, self._section.start, self._section.end
        for stop in chain((match.end() for match in _LINES_END.finditer(text, start, end)), [end]):
            if stop > start:
                is_paragraph = _PARAGRAPH_END.search(text, max(start, stop - _MAX_GAP), stop)
                yield from self._whole_or_lines(start, stop, _AFTER_PARAGRAPH if is_paragraph else _AFTER_LINE)
            start = stop

    def _prose(self, start: int, end: int) -> Iterator[_Unit]:
        text = self._read.text
        for stop in chain((match.end() for match in _SENTENCE_END.finditer(text, start, end)), [end]):
            if stop <= start:
                continue
            is_paragraph = _PARAGRAPH_END.search(text, max(start, stop - _MAX_GAP), stop)
            rank = _AFTER_PARAGRAPH if is_paragraph else _AFTER_SENTENCE
            yield from self._whole_or_lines(start, stop, _AFTER_LINE if self._section.in_fence(stop) else rank)
            start = stop

    def _rows(self, table: Table) -> Iterator[_Unit]:
        """A table that fits into a chunk as one unit, else its rows, the first one with the header."""
        text = self._read.text
        n_tokens = count_tokens(text[table.start : table.end])
        if n_tokens <= self._size:
            yield _Unit(table.start, table.end, n_tokens, _AFTER_PARAGRAPH)
            return
        room = self._size - self._head(table.body)[1]
        first = _LINE.match(text, table.body, table.end)
        stop = first.end() if first else table.end
        yield from self._whole_or_lines(table.start, stop, _AFTER_LINE, room)
        for row in _LINE.finditer(text, stop, table.end):
            yield from self._whole_or_lines(row.start(), row.end(), _AFTER_LINE, room)

    def _whole_or_lines(self, start: int, end: int, rank: int, size: int | None = None) -> Iterator[_Unit]:
        """A span as one unit, or as its lines if it is too long for one chunk, such as a listing."""
        text, size = self._read.text, size or self._size - self._n_path
        n_tokens = count_tokens(text[start:end])
        if n_tokens <= size:
            yield _Unit(start, end, n_tokens, rank)
            return
        for line in _LINE.finditer(text, start, end):
            n_tokens = count_tokens(line.group())
            if n_tokens <= size:
                # Only records have empty lines inside.
                yield _Unit(line.start(), line.end(), n_tokens, _AFTER_LINE if n_tokens else _AFTER_SENTENCE)
            else:
                yield from self._pieces(line.start(), line.end(), max(1, size // _PIECES_PER_CHUNK))

    def _pieces(self, start: int, end: int, size: int) -> Iterator[_Unit]:
        """Units of a line that is too long for one chunk: ends of clauses, else of words, else any place."""
        text = self._read.text
        while start < end:
            tokens = list(islice(_TOKEN.finditer(text, start, end), size + 1))
            if len(tokens) <= size:
                yield _Unit(start, end, len(tokens), _AFTER_LINE)
                return
            low, high = tokens[(size - 1) // 2].end(), tokens[size].start()
            stop, rank = self._best_stop(low, high)
            yield _Unit(start, stop, count_tokens(text[start:stop]), rank)
            start = stop

    def _best_stop(self, low: int, high: int) -> tuple[int, int]:
        for pattern, rank in ((_CLAUSE_END, _AFTER_CLAUSE), (_SPACE, _AFTER_WORD)):
            ends = [match.end() for match in pattern.finditer(self._read.text, low, high)]
            if ends:
                return max(reversed(ends), key=self._hash_at), rank
        return max(range(high, low - 1, -1), key=self._hash_at), _INSIDE_WORD


def _path_line(titles: list[str]) -> str:
    return f"{' > '.join(titles)}\n" if titles else ""


def _short_head(head: str, size: int) -> str:
    """A table's header as it is repeated: if it has more tokens than ``size``, with narrow cells, or only the first."""
    if count_tokens(head) <= size:
        return head
    rows = [cells_of(row) for row in head.splitlines()]
    names, kept = next((cells for cells in rows[::2] if any(cells)), []), ""
    for n in range(1, len(names) + 1):
        longer = f"| {' | '.join(names[:n])} |\n|{'-|' * n}\n"
        if count_tokens(longer) > size:
            break
        kept = longer
    return kept
