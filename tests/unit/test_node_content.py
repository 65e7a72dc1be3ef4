from __future__ import annotations

from llama_index.core.schema import NodeRelationship, ObjectType, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore.utils import json_to_doc

from ragstore.ingest.nodes import build_nodes
from ragstore.model.chunk import Chunk, ParsedDocument
from ragstore.model.document import SourceItem
from ragstore.model.node import TYPE_KEYS, content_with_text

ITEM = SourceItem("/manuals/pump.md", "/manuals/pump.md", 40)
CHUNKS = [
    Chunk("Open it.", 0, 8, ("Pump", "Cleaning")),
    Chunk("Rinse.", 9, 15),
    Chunk("Close it.", 16, 25, place={"page": 3}),
]
NODES = build_nodes(ITEM, ParsedDocument("c0ffee", CHUNKS, 25, {"title": "Pump"}))


def test_nodes_say_where_they_stand() -> None:
    first, second, third = NODES
    assert first.metadata == {
        "title": "Pump",
        "file_path": "/manuals/pump.md",
        "file_name": "pump.md",
        "file_type": "md",
        "headings": ["Pump", "Cleaning"],
    }
    assert third.metadata["page"] == 3
    assert "headings" not in second.metadata
    assert [(n.ordinal, n.start_char, n.end_char) for n in NODES] == [(0, 0, 8), (1, 9, 15), (2, 16, 25)]
    assert len({n.node_id for n in NODES}) == 3


def test_the_content_is_what_llama_index_itself_would_write() -> None:
    for node in NODES:
        ours = content_with_text(node.class_name, node.content, node.text)
        theirs = TextNode.from_dict(ours)
        assert theirs.to_dict() == ours
        assert str(ObjectType(theirs.get_type()).value) == TYPE_KEYS[node.class_name]


def test_llama_index_reads_the_node_back_with_its_relationships() -> None:
    first, second, third = NODES
    body = {"__data__": content_with_text(second.class_name, second.content, second.text), "__type__": second.type_key}
    read = json_to_doc(body)
    assert isinstance(read, TextNode)
    assert (read.node_id, read.text, read.ref_doc_id) == (second.node_id, "Rinse.", ITEM.document_id)
    previous, following = read.relationships[NodeRelationship.PREVIOUS], read.relationships[NodeRelationship.NEXT]
    assert isinstance(previous, RelatedNodeInfo) and isinstance(following, RelatedNodeInfo)
    assert (previous.node_id, following.node_id) == (first.node_id, third.node_id)


def test_the_embedded_text_is_without_headings_and_decides_the_hash() -> None:
    one, other = Chunk("Rinse.", 0, 6, ("Pump",)), Chunk("Rinse.", 50, 56, ("The pump", "Care"))
    assert one.embed_text == "Rinse."
    assert one.chunk_hash == other.chunk_hash
    assert one.chunk_hash != Chunk("Rinse it.", 0, 9, ("Pump",)).chunk_hash


def test_a_repeated_header_is_in_the_text_and_in_what_is_embedded() -> None:
    (node,) = build_nodes(ITEM, ParsedDocument("c0ffee", [Chunk("|a|\n|-|\n|1|", 40, 43)], 43))
    assert (node.text, node.start_char, node.end_char) == ("|a|\n|-|\n|1|", 40, 43)
    assert Chunk("|a|\n|-|\n|1|", 40, 43).n_repeated == 8
