"""Nodes of plain LlamaIndex, of today's and of older versions, as an import takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    TextNode,
)
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc

from ragstore.errors import InvalidNodeError
from ragstore.llama.nodes import to_node
from ragstore.model.node import content_with_text
from ragstore.transfer.nodes import node_of_body, source_hash

SOURCE = Document(text="all of it", id_="d", metadata={"kind": "manual"}).as_related_node_info()

# As llama-index-core 0.10 wrote them: a document is a text node, and a separator's name is misspelt.
TEXT_NODE_OF_0_10: dict[str, Any] = {
    "__data__": {
        "id_": "n",
        "embedding": None,
        "metadata": {"page_label": "3", "file_name": "pump.pdf"},
        "excluded_embed_metadata_keys": ["file_name"],
        "excluded_llm_metadata_keys": [],
        "relationships": {
            "1": {
                "node_id": "d",
                "node_type": "4",
                "metadata": {"page_label": "3"},
                "hash": "0f",
                "class_name": "RelatedNodeInfo",
            },
            "3": {"node_id": "n2", "node_type": "1", "metadata": {}, "hash": "1f", "class_name": "RelatedNodeInfo"},
        },
        "text": "The pump needs oil.",
        "start_char_idx": 5,
        "end_char_idx": 24,
        "text_template": "{metadata_str}\n\n{content}",
        "metadata_template": "{key}: {value}",
        "metadata_seperator": "\n",
        "class_name": "TextNode",
    },
    "__type__": "1",
}
DOCUMENT_OF_0_10: dict[str, Any] = {
    "__data__": {
        "id_": "d",
        "embedding": None,
        "metadata": {"file_name": "pump.pdf"},
        "excluded_embed_metadata_keys": [],
        "excluded_llm_metadata_keys": [],
        "relationships": {},
        "text": "All of the manual.",
        "start_char_idx": None,
        "end_char_idx": None,
        "text_template": "{metadata_str}\n\n{content}",
        "metadata_template": "{key}: {value}",
        "metadata_seperator": "\n",
        "class_name": "Document",
    },
    "__type__": "4",
}
# As versions before 0.6 wrote them, and today's still read them.
NODE_OF_0_5: dict[str, Any] = {
    "__data__": {
        "text": "The pump needs oil.",
        "doc_id": "n",
        "embedding": None,
        "doc_hash": "0f",
        "extra_info": {"page": 3},
        "node_info": {"start": 0, "end": 19},
        "relationships": {"1": "d"},
    },
    "__type__": "1",
}

NODES = [
    TextNode(id_="n", text="text", metadata={"a": [1, {"b": None}]}, start_char_idx=3, end_char_idx=7),
    TextNode(id_="n", text="cut", relationships={NodeRelationship.SOURCE: SOURCE}),
    TextNode(id_="n", text=""),
    IndexNode(id_="n", text="see there", index_id="there", obj=TextNode(id_="o", text="there")),
    ImageNode(id_="n", text="a pump", image="aGk=", metadata={"page": 1}),
    Document(id_="n", text="whole", metadata={"z": 1, "a": 2}),
    Document(id_="n", text=""),
    ImageDocument(id_="n", text="a pump"),
    Node(id_="n", text_resource=MediaResource(text="resource")),
]


def persisted(node: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(doc_to_json(node)))
    return body


def loaded(body: dict[str, Any]) -> Any:
    """What LlamaIndex reads of what both stores would get."""
    node = node_of_body(body["__data__"].get("id_") or body["__data__"]["doc_id"], body)
    content = content_with_text(node.class_name, node.content, node.text)
    return json_to_doc({"__type__": node.type_key, "__data__": content})


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.class_name())
def test_a_node_becomes_what_the_faces_make_of_it(node: Any) -> None:
    assert node_of_body("n", persisted(node)) == to_node(node)


@pytest.mark.parametrize("body", [TEXT_NODE_OF_0_10, DOCUMENT_OF_0_10, NODE_OF_0_5], ids=["text", "document", "0.5"])
def test_a_node_of_an_older_version_is_read_as_llamaindex_reads_it(body: dict[str, Any]) -> None:
    expected = json_to_doc(body)
    found = loaded(body)
    assert found == expected
    assert found.hash == expected.hash
    assert found.get_content(MetadataMode.ALL) == expected.get_content(MetadataMode.ALL)


def test_a_node_knows_its_document_its_place_and_the_version_it_was_cut_from() -> None:
    node = node_of_body("n", TEXT_NODE_OF_0_10)
    assert (node.document_id, node.start_char, node.end_char, source_hash(node)) == ("d", 5, 24, "0f")
    assert node_of_body("d", DOCUMENT_OF_0_10).document_id == "d"
    assert node_of_body("n", NODE_OF_0_5).document_id == "d"


def test_a_class_that_ragstore_does_not_know_is_taken_for_its_type() -> None:
    body = persisted(TextNode(id_="n", text="mine"))
    body["__data__"]["class_name"] = "MyNode"
    assert node_of_body("n", body).class_name == "TextNode"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"metadata": {"n": 2**70}}, "64 bits"),
        ({"metadata": {"n": float("nan")}}, "nan"),
        ({"text": "x" * 13_000_000}, "12,000,000"),
        ({"relationships": {"1": {"node_id": "d" * 2_000}}}, "2000 bytes"),
        ({"relationships": {"1": {"node_id": "a\0b"}}}, "NUL"),
    ],
)
def test_a_node_that_a_store_would_refuse_is_refused_by_name(change: dict[str, Any], why: str) -> None:
    body = persisted(TextNode(id_="n", text="text"))
    body["__data__"] |= change
    with pytest.raises(InvalidNodeError, match=rf"node n.*{why}"):
        node_of_body("n", body)


@pytest.mark.parametrize("body", [None, {}, {"__data__": None}, {"__data__": [], "__type__": "1"}])
def test_what_is_no_node_is_refused(body: Any) -> None:
    with pytest.raises(InvalidNodeError, match="has no content"):
        node_of_body("n", body)
