"""Vectors for every chunk: reused if the same text was embedded before, else computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ragstore.embedding import Embedder
from ragstore.errors import ModelError, ModelMissingError, ModelUnavailableError
from ragstore.ingest.container_reading import ContainerReading
from ragstore.ingest.retry import retry_transient
from ragstore.model.chunk import ParsedDocument
from ragstore.model.collection import Collection
from ragstore.model.document import SourceItem
from ragstore.model.run import Vectors
from ragstore.postgres import vectors
from ragstore.postgres.documents import Failure
from ragstore.postgres.pool import PostgresPool


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document that was read and split."""

    item: SourceItem
    document: ParsedDocument
    container: ContainerReading | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document with its vectors, shape ``(n_chunks, dim)``.

    Args:
        container: the reading that ends with this document, if it is a container.
    """

    item: SourceItem
    document: ParsedDocument
    vectors: Vectors
    n_embedded: int
    container: ContainerReading | None = None


class Vectorizer:
    """Finds or computes the vectors of batches of documents."""

    def __init__(self, pool: PostgresPool, collection: Collection, embedder: Callable[[], Embedder]) -> None:
        self._pool = pool
        self._collection = collection
        self._embedder = embedder
        self._accepted_text: str | None = None

    def prepare(self, batch: Sequence[Parsed]) -> tuple[list[Prepared], list[Failure]]:
        """Vectors for all chunks of a batch, each distinct text embedded once.

        Raises:
            ModelUnavailableError, ModelMissingError: the model cannot be used; for the whole batch.
            ModelError: the model refuses every document of the batch, so the documents are not the cause.
        """
        hashes = [[chunk.chunk_hash for chunk in parsed.document.chunks] for parsed in batch]
        every = [h for of_document in hashes for h in of_document]
        known = retry_transient(lambda: vectors.reusable_vectors(self._pool, self._collection, every))
        computed, failures = self._embed_missing(batch, hashes, known)
        refused = {failure.item.document_id for failure in failures}
        not_yet_counted = set(computed)
        prepared = []
        for parsed, of_document in zip(batch, hashes, strict=True):
            if parsed.item.document_id in refused:
                continue
            matrix = self._matrix([known[h] if h in known else computed[h] for h in of_document])
            position = vectors.unholdable(self._collection, matrix)
            if position is not None:
                error = vectors.cannot_hold(self._collection, f"chunk {position + 1}")
                failures.append(Failure(parsed.item, error))
                continue
            embedded_here = not_yet_counted.intersection(of_document)
            not_yet_counted -= embedded_here
            prepared.append(Prepared(parsed.item, parsed.document, matrix, len(embedded_here), parsed.container))
        return prepared, failures

    def _matrix(self, of_document: Sequence[Vectors]) -> Vectors:
        return np.stack(of_document) if of_document else np.empty((0, self._collection.space.dim), dtype=np.float32)

    def _embed_missing(
        self, batch: Sequence[Parsed], hashes: Sequence[Sequence[bytes]], known: dict[bytes, Vectors]
    ) -> tuple[dict[bytes, Vectors], list[Failure]]:
        texts = _missing(batch, hashes, known)
        if not texts:
            return {}, []
        try:
            return self._embed(texts), []
        except (ModelUnavailableError, ModelMissingError):
            raise
        except ModelError as error:
            return self._embed_one_by_one(batch, hashes, known, error)

    def _embed_one_by_one(
        self,
        batch: Sequence[Parsed],
        hashes: Sequence[Sequence[bytes]],
        known: dict[bytes, Vectors],
        first_error: ModelError,
    ) -> tuple[dict[bytes, Vectors], list[Failure]]:
        computed: dict[bytes, Vectors] = {}
        failures = []
        for parsed, of_document in zip(batch, hashes, strict=True):
            try:
                computed |= self._embed(_missing([parsed], [of_document], known | computed))
            except (ModelUnavailableError, ModelMissingError):
                raise
            except ModelError as error:
                failures.append(Failure(parsed.item, error))
        if len(failures) == len(batch) and not self._still_works():
            raise first_error
        return computed, failures

    def _still_works(self) -> bool:
        """Whether the model still embeds a text that it embedded before; if so, the documents cause the error."""
        if self._accepted_text is None:
            return False
        try:
            self._embedder().embed_documents([self._accepted_text])
        except (ModelUnavailableError, ModelMissingError):
            raise
        except ModelError:
            return False
        return True

    def _embed(self, texts: dict[bytes, str]) -> dict[bytes, Vectors]:
        if not texts:
            return {}
        matrix = self._embedder().embed_documents(list(texts.values()))
        self._accepted_text = next(iter(texts.values()))
        return dict(zip(texts, matrix, strict=True))


def _missing(
    batch: Sequence[Parsed], hashes: Sequence[Sequence[bytes]], known: dict[bytes, Vectors]
) -> dict[bytes, str]:
    return {
        chunk_hash: chunk.embed_text
        for parsed, of_document in zip(batch, hashes, strict=True)
        for chunk, chunk_hash in zip(parsed.document.chunks, of_document, strict=True)
        if chunk_hash not in known
    }
