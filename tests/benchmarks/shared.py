"""Collections of made-up nodes that several rows use, filled when first needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ragstore.app import Ragstore
from ragstore.model.collection import Collection
from ragstore.model.run import Vectors
from tests.benchmarks.made_up import N_CLUSTERS, Clusters, Corpus
from tests.benchmarks.plain import PlainStack
from tests.benchmarks.publishing import index, publish
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.texts import write_pieces, write_texts
from tests.benchmarks.word_llama import has_model

DIM = 256
_FILLED_AT_ONCE = 10_000


@dataclass
class Filled:
    """A collection, and what is in it."""

    collection: Collection
    corpus: Corpus
    n_nodes: int = 0

    @property
    def vectors(self) -> Vectors:
        """In the order of ``node_ids``."""
        return np.concatenate(self.corpus.kept_vectors)

    @property
    def labels(self) -> NDArray[np.int64]:
        """What the metadata says, a column for each key, in the order of ``node_ids``."""
        return np.concatenate(self.corpus.kept_labels)

    @property
    def node_ids(self) -> list[str]:
        """Of the nodes, in the order in which they were made."""
        return self.corpus.node_ids


@dataclass
class Shared:
    """Collections and folders of files, each made when first needed.

    Args:
        folder: for files.
        plain_stack: opens LlamaIndex's own stores, by table and dim.
        say: is called with what is being done.
        left_out: what cannot be measured is added here.
    """

    store: Ragstore
    sizes: Sizes
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
        """Of ``sizes.small`` nodes, indexed if it is due."""
        filled = self.new("small", seed=3)
        self.fill(filled, self.sizes.small)
        return filled

    @cached_property
    def middle(self) -> Filled:
        """Of ``sizes.stored`` nodes, indexed if it is due."""
        filled = self.new("middle", seed=5)
        self.fill(filled, self.sizes.stored)
        return filled

    @cached_property
    def real_files(self) -> tuple[str, int, int]:
        """A folder with real text, how many files and how many bytes there are."""
        folder, wanted = os.path.join(self.folder, "real"), self.sizes.text_bytes
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
        """A folder with many small files of real text, and how many."""
        folder = os.path.join(self.folder, "pieces")
        return folder, write_pieces(folder, self.sizes.files)

    @property
    def large(self) -> Filled:
        """Of ``sizes.large`` nodes, indexed."""
        return self.large_of(self.sizes.large)

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
