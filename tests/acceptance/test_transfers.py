"""Import, export and adopt as a person runs them."""

from __future__ import annotations

from pathlib import Path

import psycopg2
from llama_index.core import Document

from tests.support.command import CommandLine
from tests.support.llama_faces import DIM, a_document
from tests.support.persisted import a_persist_dir, loaded
from tests.support.stores import Stores

DOCUMENTS: list[Document] = [a_document(name) for name in "abc"]
COUNTS = ("documents", "nodes", "embedded", "skipped")


def counts(report: dict[str, object]) -> list[object]:
    assert list(report) == [*COUNTS, "seconds", "left_behind", "noted", "collection_made"]
    return [report[name] for name in COUNTS]


def test_a_persist_dir_goes_in_is_asked_and_comes_out(command: CommandLine, collection: str, tmp_path: Path) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS, index_id=f"index of {collection}")
    assert counts(command("import", folder, "--json").json) == [3, 18, 0, 0]
    again = command("import", folder)
    assert again.stdout.startswith("0 documents, 0 nodes imported, 18 skipped; 0 embedded, in ")
    hits = command("query", "sentence 3 of b", "--mode", "keyword", "-k", "3", "--json").json["hits"]
    assert len(hits) == 3
    assert [c for c in command("status", "--json").json["collections"] if c["name"] == collection] == [
        {
            "name": collection,
            "documents": 3,
            "nodes": 18,
            "model": "external",
            "dim": DIM,
            "vector_type": "vector",
            "indexed": 0,
            "segments": 0,
            "recall": None,
            "self_recall": None,
            "asked_recall": None,
            "of_segments": None,
            "exact": False,
        }
    ]
    assert counts(command("export", "out", "--json").json) == [3, 18, 0, 0]
    assert set(loaded(tmp_path / "out").ref_doc_info) == {"a", "b", "c"}
    refused = command("export", "out", status=4)
    assert "--overwrite" in refused.hint
    command("export", "out", "--overwrite")


def test_what_cannot_come_over_is_listed_and_the_exit_status_says_so(
    command: CommandLine, collection: str, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS, index_id=f"index of {collection}")
    path = folder / "default__vector_store.json"
    path.write_text(path.read_text().replace('{"embedding_dict": {', '{"embedding_dict": {"lost": [1.0], ', 1))
    done = command("import", folder, "--json", status=3)
    assert done.json["left_behind"] == {
        "unusable_vectors": {"count": 1, "examples": ["lost: 1 dimensions, not 32"]},
        "vectors_without_node": {"count": 1, "examples": ["lost"]},
    }
    assert "left behind: 1 vector without node" in done.stderr


def test_wrong_calls_are_told_what_is_wrong(command: CommandLine, tmp_path: Path) -> None:
    assert "no persist_dir" in command("import", tmp_path, status=6).error
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    assert "no vector store 'other'" in command("import", folder, "--namespace", "other", status=6).error
    (folder / "docstore.json").write_text('{"docstore/data": {"a": ')
    damaged = command("import", folder, "--json", status=1)
    assert damaged.json["error"]["code"] == "transfer.damaged"
    assert f"{folder}/docstore.json is damaged" in damaged.error
    assert damaged.error.endswith("at byte 24")
    assert "nowhere://x cannot be used" in command("import", "nowhere://x", status=2).error
    assert "is no table of a PGVectorStore" in command("adopt", "--postgres-table", "data_x", status=6).error


def test_a_store_is_adopted_by_its_address_and_compared(
    command: CommandLine, stores: Stores, collection: str, tmp_path: Path
) -> None:
    table = f"plain_{collection}"
    source = f"{stores.postgres_url}#public.{table}"
    with psycopg2.connect(stores.postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE public.{table} (id bigserial, text text, metadata_ json, node_id text, embedding vector(3))"
        )
        cursor.execute(
            f"INSERT INTO public.{table} (text, metadata_, node_id, embedding) "
            "SELECT 'text ' || i, '{\"source\": \"a.txt\"}', 'n' || i, ('[1,' || i || ',3]')::vector "
            "FROM generate_series(1, 20) AS i"
        )
    connection.close()
    try:
        wrong = command("adopt", "--from", source, "--document-key", "page", "--json", status=2)
        assert "--document-key: source" in wrong.hint
        preview = command("adopt", "--from", source, "--document-key", "source", "--dry-run", "--json")
        assert counts(preview.json) == [1, 20, 0, 0]
        assert preview.json["collection_made"] == {"name": collection, "model": "external", "dim": 3}
        assert collection not in [c["name"] for c in command("status", "--json").json["collections"]]
        done = command("adopt", "--from", source, "--document-key", "source", "--json")
        assert counts(done.json) == [1, 20, 0, 0]
        assert [d["document_id"] for d in command("documents", "--json").json["documents"]] == ["a.txt"]
        questions = tmp_path / "questions.jsonl"
        questions.write_text('{"question": "near the third", "embedding": [1, 3, 3]}\n')
        compared = command("compare", "--from", source, "--questions", questions, "--json").json
        assert (compared["top_k"], compared["overlap"], compared["equal"]) == (10, 1.0, 1)
        assert compared["questions"][0]["same_order"]
        assert "come from outside" in command("compare", "--from", source, "a question", status=2).error
    finally:
        with psycopg2.connect(stores.postgres_url) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE public.{table}")
        connection.close()


def test_a_plain_table_is_adopted_and_its_password_is_not_printed(
    command: CommandLine, stores: Stores, collection: str
) -> None:
    table = f"plain_{collection}"
    with psycopg2.connect(stores.postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE public.{table} (id bigserial, text text, metadata_ json, node_id text, embedding vector(3))"
        )
        cursor.execute(
            f"INSERT INTO public.{table} (text, metadata_, node_id, embedding) "
            "SELECT 'text ' || i, '{\"page\": 1}', 'n' || i, '[1,2,3]' FROM generate_series(1, 5) AS i"
        )
    connection.close()
    try:
        done = command("adopt", "--postgres-table", table, "--postgres-url", stores.postgres_url, "--json")
        assert counts(done.json) == [0, 5, 0, 0]
        assert counts(command("adopt", "--postgres-table", table, "--json").json) == [0, 0, 0, 5]
        assert command("verify", "--deep", "-c", collection, "--json").json["ok"]
    finally:
        with psycopg2.connect(stores.postgres_url) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE public.{table}")
        connection.close()
