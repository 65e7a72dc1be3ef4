"""A document's text, put together from what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llama_index.core.schema import NodeRelationship, TextNode

from ragstore.app import Ragstore
from ragstore.errors import DocumentNotFoundError, StoreError, UsageError
from ragstore.settings import Settings
from ragstore.sources.readers import read
from tests.support.command import CommandLine
from tests.support.parts import mongo_url, postgres_url

ROWS = "".join(f"| item{i} | {i} |\n" for i in range(150))
PAGES = {
    "a.md": f"# Prices\n\nOf this year.\n\n| name | price |\n| --- | --- |\n{ROWS}\nAll without tax.\n",
    "b.csv": "name,code\n" + "".join(f'n{i},"if x:\n\n    return {i}"\n' for i in range(50)),
    "c.json": json.dumps({"items": [{"id": i, "text": f"Some words\n\n    and code {i}"} for i in range(50)]}),
    "d.txt": "One sentence. " * 200,
}


@pytest.fixture
def rs(store: Ragstore, tmp_path: Path) -> Ragstore:
    store.create_collection("docs", chunk_size=64, chunk_overlap=16)
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
    store.ingest(tmp_path, collection="docs")
    return store


@pytest.mark.parametrize("name", PAGES)
def test_hits_lie_in_the_text_that_is_shown(rs: Ragstore, tmp_path: Path, name: str) -> None:
    document = str(tmp_path / name)
    text = rs.show(document, "docs")
    whole = str(text)
    assert whole.split() == read(PAGES[name].encode(), name).text.split()
    assert len(text) == len(whole)
    hits = [
        hit for hit in rs.query("item words code price", collection="docs", top_k=500) if hit.document_id == document
    ]
    assert len(hits) > 3
    for hit in hits:
        assert hit.start_char is not None and hit.end_char is not None
        n_repeated = len(hit.text) - (hit.end_char - hit.start_char)
        assert whole[hit.start_char : hit.end_char] == text[hit.start_char : hit.end_char] == hit.text[n_repeated:]
        assert hit.text[:n_repeated] in {"", "| name | price |\n| --- | --- |\n"}
    assert text[-10:] == whole[-10:]


def test_neighbours_of_a_hit_in_a_table_have_its_header_once(rs: Ragstore) -> None:
    (hit,) = rs.query("item77", collection="docs", mode="keyword", top_k=1, context=2)
    assert hit.context is not None
    assert hit.context.count("| name | price |") == 1
    assert hit.context.count("| item77 |") == 1


def test_the_command_prints_the_text_and_passages(rs: Ragstore, tmp_path: Path, settings: Settings) -> None:
    options = {"postgres_url": postgres_url(settings), "mongo_url": mongo_url(settings)}
    command = CommandLine(tmp_path, {**options, "mongo_database": settings.mongo_database, "collection": "docs"})
    whole = str(rs.show(str(tmp_path / "b.csv"), "docs"))
    assert command("show", "b.csv").stdout == f"{whole}\n"
    assert command("show", "b.csv", "--from", "5", "--to", "90", "--revision", "1").stdout == f"{whole[5:90]}\n"
    document = command("show", "b.csv", "--json").json
    assert document["document_id"] == document["source"] == str(tmp_path / "b.csv")
    assert "".join(passage["text"] for passage in document["passages"]) == whole
    assert document["passages"][0]["place"] == {"row": 2}
    assert "no document" in command("show", "missing.csv", status=6).error
    assert "not kept" in command("show", "b.csv", "--revision", "7", status=6).error
    command("show", "b.csv", "--revision", "old", status=2)


def test_a_changed_title_embeds_one_chunk(rs: Ragstore, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(PAGES["a.md"].replace("# Prices", "# All prices of the shop"))
    report = rs.ingest(tmp_path, collection="docs")
    assert (report.updated, report.embedded) == (1, 1)


def test_a_document_that_is_replaced_meanwhile_is_not_mixed(rs: Ragstore, tmp_path: Path) -> None:
    document = str(tmp_path / "d.txt")
    text = rs.show(document, "docs")
    (tmp_path / "d.txt").write_text("Something else.")
    rs.ingest(tmp_path, collection="docs")
    with pytest.raises(StoreError, match="was replaced"):
        str(text)
    assert str(rs.show(document, "docs", revision=2)) == "Something else."
    with pytest.raises(DocumentNotFoundError, match=r"revision 1 of .* is not kept"):
        rs.show(document, "docs", revision=1)


def test_missing_documents_and_nodes_without_positions_are_refused(rs: Ragstore) -> None:
    with pytest.raises(DocumentNotFoundError, match="no document nowhere"):
        rs.show("nowhere", "docs")
    source = TextNode(id_="of-code", text="").as_related_node_info()
    node = TextNode(text="a node", embedding=[1.0] * 256, relationships={NodeRelationship.SOURCE: source})
    rs.storage_context("docs").vector_store.add([node])
    with pytest.raises(UsageError, match="without the positions"):
        str(rs.show("of-code", "docs"))
