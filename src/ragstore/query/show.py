"""A document's text, put together from its live chunks without reading its source again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from ragstore.errors import DocumentNotFoundError, StoreConflictError, UsageError
from ragstore.model.chunk import PLACE_KEYS, n_repeated
from ragstore.model.collection import Collection
from ragstore.model.document import DocumentState
from ragstore.postgres.documents import Span, get_documents, span_end, spans
from ragstore.postgres.pool import PostgresPool


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document's text; each begins where the one before ends.

    Args:
        start_char: offset of its first character in the document's text, 0-based.
        headings: titles of the sections around it, outermost first.
        place: where in the document the chunk begins that it is from, e.g. ``{"page": 3}``, 1-based.
    """

    text: str
    start_char: int
    headings: tuple[str, ...] = ()
    place: dict[str, Any] = field(default_factory=dict)

    @property
    def end_char(self) -> int:
        """Offset after its last character."""
        return self.start_char + len(self.text)

    def as_dict(self) -> dict[str, Any]:
        """One of ``passages`` in ``show --json``."""
        return {**asdict(self), "end_char": self.end_char}


class DocumentText:
    """The text of one revision of a document, read from the store by each use; offsets are those of hits.

    White space between two chunks is not stored: as many line ends stand for it. ``text[a:b]``, ``str(text)`` and
    ``len(text)`` are as those of a string; ``passages`` takes little memory for a document of any size.

    Raises:
        StoreConflictError: another revision was published in the meantime; show the document again.
        UsageError: LlamaIndex code added it without positions.
    """

    def __init__(self, pool: PostgresPool, collection: Collection, document: DocumentState) -> None:
        self._pool = pool
        self._collection = collection
        self.document_id = document.document_id
        self.source = document.source_uri
        self.revision = document.revision

    def passages(self, start_char: int = 0, end_char: int | None = None) -> Iterator[Passage]:
        """The text from one offset to another, a piece for each chunk."""
        with closing(spans(self._pool, self._collection, self.document_id, start_char, end_char)) as found:
            revision, last = next(found)
            self._check(revision)
            yield from joined_spans(
                self.document_id, found, start_char, last if end_char is None else min(last, end_char)
            )

    def __str__(self) -> str:
        return "".join(passage.text for passage in self.passages())

    def __len__(self) -> int:
        revision, end = span_end(self._pool, self._collection, self.document_id)
        self._check(revision)
        return end

    def __getitem__(self, characters: slice) -> str:
        start, end = characters.start, characters.stop
        if characters.step is not None:
            raise UsageError("a document's text has no steps", hint="give text[start:end]")
        if (start or 0) < 0 or (end or 0) < 0:
            start, end, _ = characters.indices(len(self))
        return "".join(passage.text for passage in self.passages(start or 0, end))

    def _check(self, revision: int) -> None:
        if revision != self.revision:
            raise StoreConflictError(
                f"{self.document_id} was replaced or deleted after revision {self.revision}", hint="show it again"
            )


def show(pool: PostgresPool, collection: Collection, document_id: str, *, revision: int | None = None) -> DocumentText:
    """The text of a live document.

    Args:
        revision: the one that is expected, None for the live one; others are not kept.

    Raises:
        DocumentNotFoundError: it is not live, or not in that revision.
    """
    document = get_documents(pool, collection, [document_id]).get(document_id)
    if document is None or not document.live:
        raise DocumentNotFoundError(
            f"no document {document_id}",
            hint="run: ragstore documents; -c names another collection",
            in_python="documents() lists them; collection= names another collection",
            document_id=document_id,
        )
    if revision not in (None, document.revision):
        raise DocumentNotFoundError(
            f"revision {revision} of {document_id} is not kept, revision {document.revision} is live",
            hint="leave out --revision",
            in_python="leave out revision=",
            document_id=document_id,
        )
    return DocumentText(pool, collection, document)


def joined_spans(document_id: str, found: Iterable[Span], start_char: int, end_char: int) -> Iterator[Passage]:
    """Passages that follow each other without gaps from one offset to another, made of spans in their order."""
    at = start_char
    for text, begins, ends, metadata in found:
        n_head = -1 if begins is None or ends is None else n_repeated(text, begins, ends)
        if begins is None or ends is None or n_head < 0:
            raise UsageError(
                f"{document_id} cannot be shown: it was added by LlamaIndex code without the positions of its nodes",
                hint="ask for its nodes: ragstore query",
                in_python="ask for its nodes: query(), or get_nodes() of the document store",
                document_id=document_id,
            )
        stop = min(ends, end_char)
        if stop <= at:
            continue
        begin = max(at, begins)
        # White space between chunks is not stored.
        shown = "\n" * (begin - at) + text[n_head:][begin - begins : stop - begins]
        headings = metadata.get("headings")
        yield Passage(
            shown,
            at,
            tuple(headings) if isinstance(headings, list) else (),
            {key: metadata[key] for key in PLACE_KEYS if key in metadata},
        )
        at = stop
    if at < end_char:
        yield Passage("\n" * (end_char - at), at)
