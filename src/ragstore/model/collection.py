"""Collections: named sets of documents with one embedding space and one chunking.

Also the segments of a collection's vector table, the effort of searches in them, and checks of names and filter keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ragstore.errors import UsageError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_DIM = 16_000

MAX_FILTER_KEYS = 16
MAX_FILTER_KEY_CHARS = 200

VectorType = Literal["vector", "halfvec"]


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """Model, length and metric of vectors; only vectors of the same space can be compared.

    Args:
        model: the setting that named the model, e.g. ``wordllama`` or ``openai:text-embedding-3-small``;
            ``external`` when callers bring the vectors.
        dim: length of each vector, 1 to 4,000 (``MAX_INDEXED_DIM``) for a new collection.
    """

    model: str
    dim: int
    metric: Literal["cosine"] = "cosine"

    def __str__(self) -> str:
        return f"{self.model} ({self.dim} dimensions, {self.metric})"


@dataclass(frozen=True, slots=True)
class Chunking:
    """How text is split into chunks, in tokens of the splitter's tokenizer."""

    chunk_size: int
    chunk_overlap: int


@dataclass(frozen=True, slots=True)
class TableForm:
    """Form of a collection's vector table when it is made.

    Args:
        vector_type: of the column: float32 or float16.
        filter_keys: keys of the metadata that filters name often; each has indexes of its own.
    """

    vector_type: VectorType = "vector"
    filter_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of ids of a vector table; its vectors are also in a table of their own.

    Args:
        number: part of its table's name; never reused.
        above: nodes with greater ids are in it; 0 for the first segment, which has no lower end.
        upto: the last id that is in it.
        n_nodes: nodes in it when it was made; nodes deleted since then are still in its table.
        n_cells: entries of its tree that represent several nodes; 0 if a search compares all its nodes.
    """

    number: int
    above: int
    upto: int
    n_nodes: int
    n_cells: int


LOW_RECALL = 0.97
"""Least share of the 10 nearest nodes that searches of every collection find."""


@dataclass(frozen=True, slots=True)
class FoundInSegment:
    """Measured recall of searches in one segment.

    Args:
        nodes: nodes in it when it was made.
        recall: share of its nodes among the 10 nearest of a question that searches found; None if it had no such
            node.
        self_recall: share of its nodes that a search with their own vector finds first, or an equal node.
    """

    nodes: int
    recall: float | None
    self_recall: float | None


@dataclass(frozen=True, slots=True)
class Found:
    """Measured recall of searches: what they find of what an exact search finds, for a sample of questions.

    Args:
        recall: share of the 10 nearest nodes that was found.
        self_recall: share of the nodes that a search with their own vector finds first, or an equal node.
        asked_recall: as ``recall``, for the last questions that users asked; None if there were none.
        of_segments: recall in each segment, in the order of ids.
    """

    recall: float
    self_recall: float
    asked_recall: float | None = None
    of_segments: tuple[FoundInSegment, ...] = ()

    @property
    def is_low(self) -> bool:
        """Whether searches find less than they should."""
        return self.recall < LOW_RECALL or self.self_recall < 1


@dataclass(frozen=True, slots=True)
class Effort:
    """Effort of a search in the segments, and the recall measured with it.

    Args:
        entries: number of entries of the nearest regions that are compared.
        members: number of nodes of the nearest cells that are compared; 0 for a search that compares every node,
            because no effort found enough of the nearest.
        found: recall measured with this effort; None if it was not measured.
        measured_at: epoch seconds.
        n_nodes: nodes of the segments when it was measured.
    """

    entries: int
    members: int
    found: Found | None = None
    measured_at: float = 0.0
    n_nodes: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether a search compares every node."""
        return self.members == 0


def default_effort(n_nodes: int) -> Effort:
    """Effort of a search before anything was measured, for this number of nodes in segments."""
    return Effort(min(4_000 + n_nodes // 40, 32_000), min(8_000 + n_nodes // 60, 24_000))


@dataclass(frozen=True, slots=True)
class Collection:
    """One row of ``ragstore.collection``.

    Args:
        segments: in the order of ids and without gaps; nodes above the last segment are fresh, in no segment.
        filter_keys: keys of the metadata that filters name often; each has indexes of its own.
        vector_type: of the column: float32 or float16.
        epoch: epoch in which this was read; a writer that uses this value writes in that epoch only.
        effort: effort of a search; None before anything was measured.
    """

    collection_id: int
    name: str
    space: EmbeddingSpace
    chunking: Chunking
    text_search_config: str
    segments: tuple[Segment, ...] = ()
    filter_keys: tuple[str, ...] = ()
    vector_type: VectorType = "vector"
    epoch: int = field(default=1, compare=False)
    effort: Effort | None = None

    @property
    def table(self) -> str:
        """Name of its vector table in schema ``ragstore``, unquoted."""
        return table_name(self.name)


@dataclass(frozen=True, slots=True)
class MadeCollection:
    """A collection that was made because none of that name existed."""

    name: str
    model: str
    dim: int

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CollectionSummary:
    """A collection with the numbers of its live documents and nodes, as ``status`` shows it.

    Args:
        indexed: nodes that were in segments when those were made; the others are compared one by one.
        segments: number of segments.
        found: measured recall; None if it was not measured.
        exact: whether searches compare every node, because no effort found enough.
    """

    name: str
    documents: int
    nodes: int
    model: str
    dim: int
    vector_type: VectorType
    indexed: int
    segments: int
    found: Found | None
    exact: bool

    def as_dict(self) -> dict[str, Any]:
        """One entry of ``collections`` in ``status --json``."""
        found = asdict(self.found) if self.found else dict.fromkeys(each.name for each in fields(Found))
        own = asdict(self)
        del own["found"]
        return own | found


def table_name(collection: str) -> str:
    """The name PGVectorStore gives the table of ``table_name=collection``."""
    return f"data_{collection}"


def checked_name(name: str) -> str:
    """Return the name, or raise UsageError if it is not valid in both databases."""
    if NAME_PATTERN.fullmatch(name):
        return name
    raise UsageError(
        f"collection name {name!r} cannot be used",
        hint="use 1 to 40 of the characters a-z, 0-9, '_' and '-', starting with a letter or a digit; a UUID in lower "
        "case is such a name",
        name=name,
    )


def checked_filter_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the keys, each once, or raise UsageError if they cannot all have an index."""
    if isinstance(keys, str):
        raise UsageError(f"filter keys are one string, {keys!r}", hint="give a list of strings", key=keys)
    distinct = tuple(dict.fromkeys(keys))
    for key in distinct:
        if not isinstance(key, str) or len(key) > MAX_FILTER_KEY_CHARS or re.search(r"[\0\ud800-\udfff]", key):
            raise UsageError(
                f"filter key {key!r} cannot be used",
                hint=f"use a string of up to {MAX_FILTER_KEY_CHARS} characters, as metadata have it",
                key=str(key),
            )
    if len(distinct) > MAX_FILTER_KEYS:
        raise UsageError(
            f"{len(distinct)} filter keys are too many: each has indexes, which every new node pays for",
            hint=f"declare up to {MAX_FILTER_KEYS}, those that leave over the fewest nodes; filters on others work too",
        )
    return distinct
