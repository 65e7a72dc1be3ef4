"""No vector of a foreign model is taken unchecked: one bad one would spoil each search that meets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ragstore.errors import ModelError


def checked_vectors(
    rows: Sequence[Sequence[float]], n_texts: int, dim: int | None, refused: Callable[[str], ModelError]
) -> np.ndarray:
    """The rows as float32, shape ``(n_texts, dim)``, C-contiguous.

    Args:
        dim: length that earlier vectors of the model had, None when this is the first answer.
        refused: makes the error from what is wrong with the rows.

    Raises:
        ModelError: not one finite vector of that length, other than zero, for each text.
    """
    if len(rows) != n_texts:
        raise refused(f"{len(rows)} vectors for {n_texts} texts")
    try:
        with np.errstate(over="ignore"):  # what is too large for a float32 becomes inf, which is refused below
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
