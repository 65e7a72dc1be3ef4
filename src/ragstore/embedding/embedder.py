"""Interface of all embedding models, options to load one, checks of vectors and files, and ``external``."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from ragstore.errors import ModelError, ModelMissingError, SettingsError, UsageError

if TYPE_CHECKING:
    import numpy as np

MAX_BATCH_SIZE = 2048
"""Most texts in one request of the OpenAI protocol; the LlamaIndex classes refuse more."""

_BLANK = "."


class Embedder(Protocol):
    """A model that turns text into vectors; safe to use from several threads."""

    @property
    def name(self) -> str:
        """The setting that names it, e.g. ``wordllama`` or ``openai:text-embedding-3-small``."""
        ...

    @property
    def dim(self) -> int:
        """Length of its vectors; for a model behind HTTP the first use may need one request."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of shape ``(n_texts, dim)``, float32, C-contiguous, finite, never zero, in the order of the texts."""
        ...

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of shape ``(dim,)``, float32, to be compared with the vectors of documents."""
        ...


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Address and key of a model, and limits for the load on a server or on this machine.

    Args:
        base_url: address of a server; None is the provider's usual one. ``tei:URL`` contains its own.
        api_key: sent as a bearer token to that server only, never shown.
        batch_size: texts in one request, 1 to 2,048; servers with a lower limit get fewer.
        max_retries: tries after the first when a server is unreachable, overloaded or too slow.
        timeout_s: longest silence of a server within one request.
        requests_per_minute: None is unlimited; retries count.
        n_threads: threads of the processor, for models that run in this process.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    batch_size: int = 64
    max_retries: int = 5
    timeout_s: float = 60.0
    requests_per_minute: int | None = None
    n_threads: int = 2

    def __post_init__(self) -> None:
        _require(1 <= self.batch_size <= MAX_BATCH_SIZE, "batch_size", f"1 to {MAX_BATCH_SIZE}")
        _require(self.max_retries >= 0, "max_retries", "0 or more")
        _require(self.timeout_s > 0, "timeout_s", "more than 0")
        _require(self.requests_per_minute is None or self.requests_per_minute >= 1, "requests_per_minute", "1 or more")
        _require(self.n_threads >= 1, "n_threads", "1 or more")


def _require(holds: bool, option: str, allowed: str) -> None:
    if not holds:
        raise SettingsError(
            f"model option {option} is out of range",
            hint=f"set {option} to {allowed}",
            option=option,
        )


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The model to load, with its options.

    Args:
        name: the whole setting, e.g. ``tei:http://127.0.0.1:8080``.
        argument: the part after the first colon, empty for models without one.
        sleep: waits so many seconds between retries.
    """

    name: str
    argument: str
    options: ModelOptions
    sleep: Callable[[float], object]


def embeddable(text: str) -> str:
    """The text in a form that every model accepts: "." replaces blank text, "?" replaces lone surrogates.

    Blank text has no tokens: some models would return NaN or a zero vector, which has no cosine
    distance to any vector, and some servers refuse it. Surrogates come from undecodable command lines.
    """
    storable = text.encode(errors="replace").decode()
    return storable if storable.strip() else _BLANK


class ExternalEmbedder:
    """The model ``external``, which refuses to embed: only the caller knows the model of these vectors."""

    name = "external"

    @property
    def dim(self) -> int:
        """Raises UsageError: only the collection has the length."""
        self._refuse("tell the length of a vector")

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:  # noqa: ARG002
        """Raises UsageError: the vectors come with the nodes."""
        self._refuse("embed documents")

    def embed_query(self, text: str) -> np.ndarray:  # noqa: ARG002
        """Raises UsageError: the caller must give the vector."""
        self._refuse("embed a query")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"the model 'external' cannot {what}: the vectors of its collections come with the nodes",
            hint="ask with --mode keyword, or use a collection that was made with another RAGSTORE_MODEL",
            in_python="give embedding= or embed_model=, or make the collection with model='wordllama'",
            model=self.name,
        )


def checked_vectors(
    rows: Sequence[Sequence[float]], n_texts: int, dim: int | None, refused: Callable[[str], ModelError]
) -> np.ndarray:
    """The rows as float32, shape ``(n_texts, dim)``, C-contiguous.

    Args:
        dim: length of earlier vectors of the model, None if this is the first answer.
        refused: makes the error from a description of what is wrong with the rows.

    Raises:
        ModelError: the rows are not one finite vector of that length, other than zero, for each text.
    """
    import numpy as np  # not needed for a search by words only

    if len(rows) != n_texts:
        raise refused(f"{len(rows)} vectors for {n_texts} texts")
    try:
        with np.errstate(over="ignore"):  # a value too large for float32 becomes inf, which is refused below
            vectors = np.array(rows, dtype=np.float32, order="C")
    except (ValueError, TypeError, OverflowError) as error:
        raise refused("vectors of several lengths, or not of numbers") from error
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise refused("no vectors")
    if dim not in (None, vectors.shape[1]):
        raise refused(f"vectors of {vectors.shape[1]} dimensions, earlier ones had {dim}")
    if not np.isfinite(vectors).all():
        raise refused("a vector with NaN or infinity in it")
    if not vectors.any(axis=1).all():
        raise refused("a vector of zeros, which has no direction")
    return vectors


_BLOCK_BYTES = 1 << 20


def package_file(package: str, path: str) -> Path:
    """The path of a file in an installed package; raises ImportError if the package or the file is missing."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / path
        if file.is_file():
            return file
    raise ImportError(f"package {package} with file {path} is not installed")


def require_sha256(file: Path, sha256: str, remedy: str) -> None:
    """Raise ModelMissingError unless the file has this hash: the program was measured with exactly this file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ModelMissingError(
            f"model file {file} is damaged or of another version",
            hint=remedy,
            path=str(file),
            sha256=digest.hexdigest(),
        )
