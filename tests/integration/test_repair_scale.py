"""Losing one whole store under ten thousand nodes: one command, and all is as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.settings import Settings
from tests.support.command import CommandLine
from tests.support.corpus import a_text, write_documents
from tests.support.oracle import Oracle
from tests.support.parts import execute, postgres_url

N_DOCUMENTS, N_SENTENCES = 850, 24
QUESTIONS = [a_text(i)[:100] for i in range(0, N_DOCUMENTS, 40)]


def answers(rs: ragstore.Ragstore) -> list[list[tuple[str, float]]]:
    """By vector: how rare a word is said to be follows statistics, which are others for a table that was made again."""
    hits = (rs.query(q, collection="docs", top_k=10, mode="vector") for q in QUESTIONS)
    return [[(hit.node_id, round(hit.score, 5)) for hit in each] for each in hits]


def bodies(mongo: Database[dict[str, Any]]) -> dict[str, Any]:
    return {body["_id"]: body["__data__"] for body in mongo["docs/data"].find()}


@pytest.mark.timeout(400)
def test_either_store_lost_under_ten_thousand_nodes_comes_back_with_one_command(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    assert settings.postgres_url is not None and settings.mongo_url is not None
    options = {"postgres_url": postgres_url(settings), "mongo_url": settings.mongo_url.get_secret_value()}
    # Without the index answers are exact, so that they can be compared hit by hit.
    settings = settings.model_copy(update={"index_min_nodes": 1_000_000})
    command = CommandLine(
        tmp_path, {**options, "mongo_database": settings.mongo_database, "index_min_nodes": settings.index_min_nodes}
    )
    oracle = Oracle(postgres_url(settings), mongo_database)
    folder = tmp_path / "docs"
    state = write_documents(folder, {f"{i}.txt": a_text(i, N_SENTENCES) for i in range(N_DOCUMENTS)})
    with ragstore.open(settings) as rs:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
        n_nodes = rs.ingest(folder, collection="docs").chunks
        before, stored = answers(rs), bodies(mongo_database)
    assert n_nodes > 10_000

    mongo_database.client.drop_database(mongo_database.name)
    assert command("verify", "--json", status=5).json["missing_in_mongo"] == n_nodes
    repaired = command("repair", "--json").json
    assert (repaired["ok"], repaired["embedded"]) == (True, 0)
    assert command("verify", "--deep", "--json").json["ok"]
    oracle.assert_settled(state)
    with ragstore.open(settings) as rs:
        assert (answers(rs), bodies(mongo_database)) == (before, stored)
        assert rs.storage_context("docs").docstore.get_node(before[0][0][0]).node_id == before[0][0][0]
        assert rs.ingest(folder, collection="docs").unchanged == N_DOCUMENTS

    execute(settings, "DROP TABLE ragstore.data_docs")
    assert command("verify", "--json", status=5).json["missing_in_postgres"] == n_nodes
    repaired = command("repair", "--json").json
    assert (repaired["ok"], repaired["embedded"]) == (True, n_nodes)
    assert command("verify", "--deep", "--json").json["ok"]
    oracle.assert_settled(state)
    with ragstore.open(settings) as rs:
        assert answers(rs) == before
        assert rs.ingest(folder, collection="docs").unchanged == N_DOCUMENTS
