"""Synthetic nodes: words as frequent as those of a language, vectors with neighbourhoods as embeddings have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragstore.model.node import Node
from ragstore.model.run import PlannedRevision, Vectors, new_node_id

NODES_PER_DOCUMENT = 10
WORDS_PER_NODE = 60
N_CLUSTERS = 200
CLUSTERS_PER_GROUP = 20
SHARES = {"half": 2, "tenth": 10, "hundredth": 100, "thousandth": 1_000}
"""Metadata key → how many values it has, equally frequent: what a filter on one of them leaves over."""

_N_WORDS = 20_000
_LATENT_DIM = 24
_WITHIN, _AROUND = 0.45, 0.02
"""Spread within a cluster where clusters are one apart, and around the flat that all vectors lie near."""


class Vocabulary:
    """Synthetic words, of which the n-th is used 1/n as often as the first."""

    @cached_property
    def _words(self) -> NDArray[np.str_]:
        rng = np.random.default_rng(0)
        syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
        made = {"".join(rng.choice(syllables, 4)) for _ in range(2 * _N_WORDS)}
        words = np.array(sorted(made)[:_N_WORDS])
        rng.shuffle(words)
        return words

    @cached_property
    def _share(self) -> NDArray[np.float64]:
        frequencies = 1 / np.arange(1, _N_WORDS + 1)
        return np.cumsum(frequencies / frequencies.sum())

    def texts(self, rng: np.random.Generator, n_texts: int) -> list[str]:
        """Texts of ``WORDS_PER_NODE`` words."""
        drawn = np.minimum(np.searchsorted(self._share, rng.random((n_texts, WORDS_PER_NODE))), _N_WORDS - 1)
        return [" ".join(words) for words in self._words[drawn]]

    @property
    def question(self) -> str:
        """Common and rare words, as a person uses them."""
        return " ".join(self._words[[20, 60, 200, 800, 3_000]])


VOCABULARY = Vocabulary()


class Clusters:
    """A mixture of gaussians near a flat of few dimensions.

    Independent random vectors of 256 dimensions are all about as far from each other: they have no neighbourhoods, and
    every approximate index looks bad on them. Embeddings have topics and few degrees of freedom.
    """

    def __init__(self, dim: int, seed: int = 1) -> None:
        self.dim = dim
        rng = np.random.default_rng(seed)
        self._centres = rng.normal(size=(N_CLUSTERS, _LATENT_DIM)).astype(np.float32)
        self._flat = (rng.normal(size=(_LATENT_DIM, dim)) / np.sqrt(_LATENT_DIM)).astype(np.float32)

    def draw(self, rng: np.random.Generator, clusters: NDArray[np.int64]) -> Vectors:
        """One vector of unit length for each of these clusters, shape ``(len(clusters), dim)``."""
        n = len(clusters)
        latent = self._centres[clusters] + _WITHIN * rng.standard_normal((n, _LATENT_DIM), dtype=np.float32)
        vectors = latent @ self._flat + _AROUND * rng.standard_normal((n, self.dim), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.ascontiguousarray(vectors, dtype=np.float32)


@dataclass
class Corpus:
    """Documents that come one after the other, and what is known about their nodes.

    Args:
        name: first part of the documents' ids.
        keeps: remember vectors and metadata, to compare with exactly.
    """

    name: str
    clusters: Clusters
    seed: int = 2
    keeps: bool = False
    node_ids: list[str] = field(default_factory=list)
    kept_vectors: list[Vectors] = field(default_factory=list)
    kept_labels: list[NDArray[np.int64]] = field(default_factory=list)
    _n_documents: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def revisions(self, n_nodes: int) -> list[PlannedRevision]:
        """The next documents, of ``NODES_PER_DOCUMENT`` nodes each."""
        n_documents = n_nodes // NODES_PER_DOCUMENT
        n_nodes = n_documents * NODES_PER_DOCUMENT
        clusters = self._rng.integers(N_CLUSTERS, size=n_nodes)
        vectors = self.clusters.draw(self._rng, clusters)
        texts = VOCABULARY.texts(self._rng, n_nodes)
        labels = np.column_stack([*(self._rng.integers(n, size=n_nodes) for n in SHARES.values()), clusters])
        revisions = []
        for i in range(0, n_nodes, NODES_PER_DOCUMENT):
            document_id = f"/{self.name}/{self._n_documents:07}.md"
            self._n_documents += 1
            own = range(i, i + NODES_PER_DOCUMENT)
            nodes = [a_node(document_id, j - i, _metadata(document_id, labels[j]), texts[j]) for j in own]
            revisions.append(a_revision(document_id, nodes, vectors[i : i + NODES_PER_DOCUMENT]))
        if self.keeps:
            self.node_ids += [node.node_id for revision in revisions for node in revision.nodes]
            self.kept_vectors.append(vectors)
            self.kept_labels.append(labels)
        return revisions

    def forget_last(self) -> None:
        """The documents of the last call are gone again."""
        del self.node_ids[len(self.node_ids) - len(self.kept_vectors.pop()) :]
        self.kept_labels.pop()


def a_revision(document_id: str, nodes: list[Node], vectors: Vectors) -> PlannedRevision:
    """A new document."""
    return PlannedRevision(document_id, document_id, 0, "added", nodes, vectors, content_hash="0" * 32)


def a_node(document_id: str, ordinal: int, metadata: dict[str, object], text: str) -> Node:
    """A node as an ingest makes it."""
    node_id = new_node_id()
    content: dict[str, Any] = {
        "id_": node_id,
        "embedding": None,
        "metadata": metadata,
        "excluded_embed_metadata_keys": [],
        "excluded_llm_metadata_keys": [],
        "relationships": {"1": {"node_id": document_id, "node_type": "4", "metadata": {}, "hash": None,
                                "class_name": "RelatedNodeInfo"}},
        "metadata_template": "{key}: {value}",
        "metadata_separator": "\n",
        "text": "",
        "mimetype": "text/plain",
        "start_char_idx": 0,
        "end_char_idx": len(text),
        "text_template": "{metadata_str}\n\n{content}",
        "class_name": "TextNode",
    }  # fmt: skip
    hash_of_its_own = node_id.replace("-", "")
    return Node(
        node_id, document_id, text, metadata, content, ordinal=ordinal, chunk_hash=bytes.fromhex(hash_of_its_own)
    )


def _metadata(document_id: str, labels: NDArray[np.int64]) -> dict[str, object]:
    *shares, cluster = (int(label) for label in labels)
    return {
        "file_path": document_id,
        "file_name": document_id.rpartition("/")[2],
        **{key: f"{key}-{value}" for key, value in zip(SHARES, shares, strict=True)},
        "cluster": f"cluster-{cluster}",
        "group": f"group-{cluster // CLUSTERS_PER_GROUP}",
    }
