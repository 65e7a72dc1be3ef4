"""What one can do by hand without any guarantee: encode the same rows and documents, and write them once."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import orjson

from ragstore.model.collection import Collection
from ragstore.model.node import Node
from ragstore.model.run import PlannedRevision, Vectors
from ragstore.postgres.copy import COLUMNS, HEADER, TRAILER, encode_rows
from ragstore.postgres.names import quoted_table
from tests.support.internals import mongo_bodies

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench


def write_both(bench: Workbench, collection: Collection, revisions: Sequence[PlannedRevision]) -> None:
    """One ``insert_many``, acknowledged as ragstore's, and one binary COPY into a table without any index."""
    nodes = [node for revision in revisions for node in revision.nodes]
    _insert(bench, nodes)
    rows = encode_rows(nodes, _vectors(revisions))
    with bench.connection() as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS public.raw")
        cursor.execute(f"CREATE TABLE public.raw (LIKE {quoted_table(collection)} INCLUDING DEFAULTS)")
        stream = io.BytesIO(HEADER + rows + TRAILER)
        cursor.copy_expert(f"COPY public.raw ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)", stream)


def write_beside_hnsw(bench: Workbench, table: str, revisions: Sequence[PlannedRevision]) -> None:
    """The same into a table of PGVectorStore whose HNSW index takes each row in."""
    nodes = [node for revision in revisions for node in revision.nodes]
    _insert(bench, nodes)
    stream = io.StringIO()
    writer = csv.writer(stream)
    for node, vector in zip(nodes, _vectors(revisions), strict=True):
        metadata = orjson.dumps(node.metadata | {"_node_content": orjson.dumps(node.content).decode()}).decode()
        writer.writerow((node.text, metadata, node.node_id, orjson.dumps(vector.tolist()).decode()))
    stream.seek(0)
    with bench.connection() as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} (text, metadata_, node_id, embedding) FROM STDIN (FORMAT csv)", stream)


def _insert(bench: Workbench, nodes: Sequence[Node]) -> None:
    bench.mongo[f"raw/{uuid4()}"].insert_many(mongo_bodies(nodes), ordered=False)


def _vectors(revisions: Sequence[PlannedRevision]) -> Vectors:
    return np.concatenate([revision.vectors for revision in revisions])
