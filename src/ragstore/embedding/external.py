"""The model of collections whose vectors come with the nodes: it embeds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from ragstore.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


class ExternalEmbedder:
    """Refuses to embed: only the caller knows the model of these vectors."""

    name = "external"

    @property
    def dim(self) -> int:
        """Raises UsageError: the collection knows it."""
        self._refuse("tell the length of a vector")

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:  # noqa: ARG002
        """Raises UsageError."""
        self._refuse("embed documents")

    def embed_query(self, text: str) -> np.ndarray:  # noqa: ARG002
        """Raises UsageError."""
        self._refuse("embed a query")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"the model 'external' cannot {what}: the vectors of its collections come with the nodes",
            hint="ask with --mode keyword, or use a collection that was made with another RAGSTORE_MODEL",
            in_python="give embedding= or embed_model=, or make the collection with model='wordllama'",
            model=self.name,
        )
