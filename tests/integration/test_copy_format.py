from __future__ import annotations

import io
import json

import numpy as np

from ragstore.model.node import Node
from ragstore.postgres.copy import COLUMNS, HEADER, TRAILER, encode_rows
from tests.support.stores import Stores

NODES = [
    Node(
        node_id="n1",
        document_id="/manuals/für.md",
        text="Ümlaut 'quote' \\ tab\t\n\U0001f600 %s",
        metadata={"tenant": "x' OR '1'='1", "n": 7001, "zip": "07001", "list": [1, None, True], "_node_type": "mine"},
        content={"id_": "n1", "text": ""},
        ordinal=3,
        start_char=0,
        end_char=2**31 - 1,
        chunk_hash=bytes(range(16)),
    ),
    Node(node_id="n2", document_id=None, text="", metadata={}, content={}),
]
VECTORS = np.array([[1.0, -2.5, 3e-38], [0.0, 1e38, -0.0]], dtype=np.float32)


def test_binary_rows_arrive_as_they_were_meant(postgres_database: str) -> None:
    stores = Stores(postgres_database, "")
    stores.sql(
        "INSERT INTO ragstore.collection (name, model, dim, metric, chunk_size, chunk_overlap, text_search_config) "
        "VALUES ('docs', 'external', 3, 'cosine', 256, 32, 'english')"
    )
    stores.sql("SELECT ragstore.ensure_collection_table('docs')")
    copy_rows(postgres_database, HEADER + encode_rows(NODES, VECTORS) + TRAILER)

    columns = "node_id, document_id, text, user_metadata, ordinal, start_char, end_char, chunk_hash, embedding::real[]"
    first, second = stores.sql(f"SELECT {columns} FROM ragstore.data_docs ORDER BY node_id")
    assert first[:7] == ("n1", NODES[0].document_id, NODES[0].text, NODES[0].metadata, 3, 0, 2**31 - 1)
    assert bytes(first[7]) == bytes(range(16))
    assert second[:8] == ("n2", None, "", {}, 0, None, None, None)
    np.testing.assert_array_equal(np.array([first[8], second[8]], dtype=np.float32), VECTORS)


def test_the_metadata_that_pgvectorstore_reads_names_node_type_and_source(postgres_database: str) -> None:
    test_binary_rows_arrive_as_they_were_meant(postgres_database)
    rows = dict(Stores(postgres_database, "").sql("SELECT node_id, metadata_ FROM ragstore.data_docs"))
    assert json.loads(rows["n1"]["_node_content"]) == NODES[0].content
    assert rows["n1"]["_node_type"] == "TextNode"
    assert {rows["n1"][key] for key in ("document_id", "doc_id", "ref_doc_id")} == {"/manuals/für.md"}
    assert {rows["n2"][key] for key in ("document_id", "doc_id", "ref_doc_id")} == {"None"}


def copy_rows(url: str, data: bytes) -> None:
    import psycopg2

    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(
            f"COPY ragstore.data_docs ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)", io.BytesIO(data)
        )
    connection.close()
