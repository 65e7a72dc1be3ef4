"""Writers find rows by their keys, however much a table has grown since it was analysed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from ragstore.postgres import epoch, node_statements, statements
from ragstore.postgres.collections import hold
from ragstore.postgres.names import array, quoted_table
from ragstore.settings import Settings
from tests.support.corpus import a_text
from tests.support.parts import Parts, a_revision, open_parts

N_DOCUMENTS = 500


def a_plan(parts: Parts, statement: str, **parameters: Any) -> str:
    key: dict[str, Any] = {"collection_id": parts.collection.collection_id, "run_id": None, "grace_s": 0}
    key |= {"epoch": 1, "name": "docs", "number": 1, "token": str(uuid4())}
    with parts.pool.transaction() as cursor:
        hold(cursor, parts.collection)
        text = statement.replace("{table}", quoted_table(parts.collection))
        cursor.execute(f"EXPLAIN {text}", key | parameters)
        return "\n".join(row[0] for row in cursor.fetchall())


@pytest.mark.parametrize(
    "statement",
    [
        statements.REF_DOCS,
        statements.RETIRE_NODES,
        statements.LIVE_NODE_IDS,
        statements.HOLD_COLLECTION,
        statements.HOLD_COLLECTION_BY_NAME,
        epoch.KNOWS,
        node_statements.PLACES,
        node_statements.DELETE_NODES,
        node_statements.DELETE_NODES_OF_DOCUMENTS,
        node_statements.DELETE_OTHER_VECTORS,
    ],
)
def test_a_table_that_was_never_analysed_is_not_read_whole(settings: Settings, statement: str) -> None:
    with open_parts(settings) as parts:
        ids = [f"d{i}" for i in range(N_DOCUMENTS)]
        revisions = [a_revision(i, a_text(i, 4)) for i in ids]
        parts.publisher.publish(parts.collection, revisions)
        node_ids = [node.node_id for revision in revisions for node in revision.nodes]
        plan = a_plan(
            parts, statement, document_ids=array(ids), node_ids=array(node_ids), ids=array(node_ids), keep=array(["x"])
        )
    assert "Seq Scan on data_docs" not in plan, plan
    # Before PostgreSQL 18 a scan that cannot be avoided has a cost at which the plan is compiled first.
    assert "JIT" not in plan, plan
