"""Data that several rows use: collections of synthetic nodes, the plain stack's copy of them, and real files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ragstore.app import Ragstore
from ragstore.embedding import Embedder
from ragstore.errors import ModelMissingError, StoreError
from ragstore.ingest.pipeline import STORED_AT_ONCE
from ragstore.model.collection import Collection
from ragstore.model.run import PlannedRevision, Vectors
from tests.benchmarks.corpora import write_pieces, write_texts
from tests.benchmarks.plain import PlainStack
from tests.benchmarks.scale import Scale
from tests.benchmarks.synthetic import N_CLUSTERS, Clusters, Corpus
from tests.support.internals import models_of, writer_of

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding


DIM = 256
_FILLED_AT_ONCE = 10_000
DOCUMENTS_PER_RUN = 100
_MOST_ROUNDS = 1_000
_MODEL = "wordllama"
_COLLECTION = "model"


@dataclass
class Filled:
    """A collection and the synthetic corpus that fills it."""

    collection: Collection
    corpus: Corpus
    n_nodes: int = 0

    @property
    def vectors(self) -> Vectors:
        """In the order of ``node_ids``."""
        return np.concatenate(self.corpus.kept_vectors)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Values of the metadata, a column for each key, in the order of ``node_ids``."""
        return np.concatenate(self.corpus.kept_labels)

    @property
    def node_ids(self) -> list[str]:
        """In the order in which the nodes were made."""
        return self.corpus.node_ids


@dataclass
class Datasets:
    """Collections and folders of files, each made when first needed.

    Args:
        folder: for files.
        plain_stack: opens LlamaIndex's own stores, by table and dim.
        say: is called with what is being done.
        left_out: what cannot be measured is added here.
    """

    store: Ragstore
    scale: Scale
    folder: str
    plain_stack: Callable[[str, int], PlainStack]
    say: Callable[[str], None]
    left_out: list[str]
    _clusters: Clusters = field(default_factory=lambda: Clusters(DIM))
    _large: Filled | None = None
    _plain: PlainStack | None = None
    _n_copied: int = 0

    def close(self) -> None:
        """Close the plain stack's connections."""
        if self._plain is not None:
            self._plain.close()

    @cached_property
    def small(self) -> Filled:
        """Collection of ``scale.small`` nodes, indexed if that many are."""
        filled = self.new("small", seed=3)
        self.fill(filled, self.scale.small)
        return filled

    @cached_property
    def middle(self) -> Filled:
        """Collection of ``scale.stored`` nodes, indexed if that many are."""
        filled = self.new("middle", seed=5)
        self.fill(filled, self.scale.stored)
        return filled

    @cached_property
    def real_files(self) -> tuple[str, int, int]:
        """A folder with real text, its number of files and of bytes."""
        folder, wanted = os.path.join(self.folder, "real"), self.scale.text_bytes
        n_files, n_bytes = write_texts(folder, wanted)
        if n_bytes < wanted:
            self.left_out.append(f"rows 3 and 7: this machine has only {n_bytes / 1e6:.1f} MB of real text")
        return folder, n_files, n_bytes

    @cached_property
    def real(self) -> Collection:
        """The real text, ingested and indexed."""
        folder, _, _ = self.real_files
        self.store.ingest(folder, collection="real")
        index(self.store)
        return self.store.create_collection("real")

    @cached_property
    def pieces(self) -> tuple[str, int]:
        """A folder with many small files of real text, and their number."""
        folder = os.path.join(self.folder, "pieces")
        return folder, write_pieces(folder, self.scale.files)

    @property
    def large(self) -> Filled:
        """Collection of ``scale.large`` nodes, indexed."""
        return self.large_of(self.scale.large)

    def large_of(self, n_nodes: int) -> Filled:
        """The large collection, grown to at least so many nodes, indexed."""
        if self._large is None:
            self._large = self.new("large", seed=2, keeps=True)
        if self._large.n_nodes < n_nodes:
            self.say(f"filling a collection with {n_nodes:,} nodes")
            self.fill(self._large, n_nodes)
        return self._large

    @property
    def plain(self) -> PlainStack:
        """The plain stack with the same nodes as the large collection, in a table with an HNSW index."""
        return self._plain_with(self._large or self.large)

    @property
    def some_plain(self) -> PlainStack:
        """The plain stack with the nodes it has, or with those of the small collection."""
        return self._plain or self._plain_with(self.small)

    def _plain_with(self, filled: Filled) -> PlainStack:
        if self._plain is None:
            self._plain = self.plain_stack("plain", DIM)
        if self._n_copied != filled.n_nodes:
            self.say("copying it into the plain stack's table")
            self._plain.copy_from(filled.collection)
            self._n_copied = filled.n_nodes
        return self._plain

    def new(self, name: str, *, seed: int, keeps: bool = False) -> Filled:
        """An empty collection for nodes of the same clusters."""
        model = "wordllama" if has_model(self.store) else "external"  # ragstore query embeds its question
        collection = self.store.create_collection(name, model=model, dim=DIM)
        return Filled(collection, Corpus(name, self._clusters, seed, keeps))

    def fill(self, filled: Filled, n_nodes: int) -> None:
        """Publish nodes until there are so many, and index them."""
        while filled.n_nodes < n_nodes:
            amount = min(_FILLED_AT_ONCE, n_nodes - filled.n_nodes)
            publish(self.store, filled.collection, filled.corpus.revisions(amount))
            filled.n_nodes += amount
        index(self.store)

    def questions(self, n: int, *, cluster: int | None = None, seed: int = 4) -> Vectors:
        """Vectors like those of the nodes, shape ``(n, 256)``."""
        rng = np.random.default_rng(seed)
        clusters = rng.integers(N_CLUSTERS, size=n) if cluster is None else np.full(n, cluster)
        return self._clusters.draw(rng, clusters)


def publish(
    store: Ragstore, collection: Collection, revisions: Sequence[PlannedRevision], per_run: int = DOCUMENTS_PER_RUN
) -> None:
    """Publish new documents with their vectors, in as many runs at once as an ingest has."""
    writer = writer_of(store)
    runs = [revisions[i : i + per_run] for i in range(0, len(revisions), per_run)]
    with ThreadPoolExecutor(STORED_AT_ONCE) as storing:
        for result in storing.map(lambda run: writer.publisher.publish(collection, run), runs):
            if result.moved_on:
                raise StoreError(f"documents of {collection.name!r} were there before: {result.moved_on[:3]}")
    writer.recoverer.retire()


def index(store: Ragstore) -> None:
    """Do at once all that ``ragstore maintain`` would do: build indexes, refresh statistics."""
    upkeep = store.upkeep()
    for _ in range(_MOST_ROUNDS):
        if not upkeep.go_round():
            return
    raise StoreError(f"upkeep found something to do {_MOST_ROUNDS} times in a row")


def embedder(store: Ragstore) -> Embedder:
    """WordLlama, the model of rows with real text.

    Raises:
        ModelMissingError: it is not installed.
    """
    return models_of(store).named(_MODEL)


def has_model(store: Ragstore) -> bool:
    """Whether WordLlama is installed."""
    try:
        embedder(store)
    except ModelMissingError:
        return False
    return True


def word_llama_embedding(store: Ragstore) -> BaseEmbedding:
    """WordLlama as a model of LlamaIndex.

    Raises:
        ModelMissingError: it is not installed.
    """
    store.create_collection(_COLLECTION, model=_MODEL)
    return store.embed_model(_COLLECTION)
