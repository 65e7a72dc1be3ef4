"""Encoder of a collection's rows in PostgreSQL's binary COPY format.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; the value of a ``vector`` is
two int16 (dim, unused) and ``dim`` float32, big-endian, of a ``halfvec`` the same with float16; of a ``jsonb`` a
version byte 1 and the text.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from ragstore.model.collection import VectorType
from ragstore.model.node import Node

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
COLUMNS = (
    "text", "metadata_", "node_id", "embedding", "document_id", "ordinal", "start_char", "end_char", "chunk_hash",
    "user_metadata",
)  # fmt: skip

_N_FIELDS = struct.pack(">h", len(COLUMNS))
_NULL = struct.pack(">i", -1)
_length = struct.Struct(">i").pack
_int4 = struct.Struct(">ii").pack
_vector_header = struct.Struct(">ihh").pack
_NUMBERS: Mapping[VectorType, np.dtype[Any]] = {"vector": np.dtype(">f4"), "halfvec": np.dtype(">f2")}


def encode_rows(nodes: Sequence[Node], vectors: np.ndarray[Any, Any], vector_type: VectorType = "vector") -> bytes:
    """Rows without header and trailer of the format, so that the rows of documents can be joined or left out.

    Args:
        vectors: shape ``(len(nodes), dim)``; for ``halfvec`` with values that float16 can hold.
    """
    dim, numbers = vectors.shape[1], _NUMBERS[vector_type]
    raw = memoryview(np.ascontiguousarray(vectors, dtype=numbers).tobytes())
    width = numbers.itemsize * dim
    vector_head = _vector_header(4 + width, dim, 0)
    out: list[bytes | memoryview] = []
    for i, node in enumerate(nodes):
        user_metadata = orjson.dumps(node.metadata)
        document = _text(node.document_id)
        out += (
            _N_FIELDS,
            _text(node.text),
            _jsonb(pgvector_metadata(node)),
            _text(node.node_id),
            vector_head,
            raw[i * width : (i + 1) * width],
            document,
            _int4(4, node.ordinal),
            _NULL if node.start_char is None else _int4(4, node.start_char),
            _NULL if node.end_char is None else _int4(4, node.end_char),
            _NULL if node.chunk_hash is None else _length(len(node.chunk_hash)) + node.chunk_hash,
            _jsonb(user_metadata),
        )
    return b"".join(out)


def pgvector_metadata(node: Node) -> bytes:
    """The ``metadata_`` column as PGVectorStore writes it: the metadata, and the node without text as a JSON string."""
    source = node.document_id if node.document_id is not None else "None"
    return orjson.dumps(
        {
            **node.metadata,
            "_node_content": orjson.dumps(node.content).decode(),
            "_node_type": node.class_name,
            "document_id": source,
            "doc_id": source,
            "ref_doc_id": source,
        }
    )


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    return _length(len(encoded)) + encoded


def _jsonb(encoded: bytes) -> bytes:
    return _length(len(encoded) + 1) + b"\x01" + encoded
