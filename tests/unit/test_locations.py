from __future__ import annotations

from pathlib import Path

import pytest

from ragstore.errors import ForeignStoreError, PathNotFoundError, UsageError
from ragstore.transfer.records import RecordKeys, keys_of, node_of_record, value_at
from ragstore.transfer.systems.location import Location, parse_location
from ragstore.transfer.systems.opening import KEY_VALUE_SCHEMES, VECTOR_SCHEMES
from ragstore.transfer.systems.reader import Record, client_errors, client_module


def vectors_at(text: str, secret: str | None = None) -> Location:
    return parse_location(text, secret, VECTOR_SCHEMES)


@pytest.mark.parametrize(
    ("text", "scheme", "address", "options", "name"),
    [
        ("chroma:./a folder#manuals", "chroma", "./a folder", {}, "manuals"),
        ("chroma:/data/a#b#manuals", "chroma", "/data/a#b", {}, "manuals"),
        ("qdrant+https://h:6333?vector=text-dense#c", "qdrant+https", "//h:6333", {"vector": "text-dense"}, "c"),
        ("milvus:m.db", "milvus", "m.db", {}, None),
        ("pinecone:index#", "pinecone", "index", {}, ""),
        (
            "postgresql://u:p%23@h/db?sslmode=require#data_x",
            "postgresql",
            "//u:p%23@h/db",
            {"sslmode": "require"},
            "data_x",
        ),
    ],
)
def test_an_address_has_its_parts(
    text: str, scheme: str, address: str, options: dict[str, str], name: str | None
) -> None:
    found = vectors_at(text)
    assert (found.scheme, found.address, found.options, found.name) == (scheme, address, options, name)


def test_a_path_is_a_document_store_and_may_have_a_namespace(tmp_path: Path) -> None:
    for text, name in ((f"{tmp_path}", None), (f"{tmp_path}#mine", "mine"), ("s3://bucket/folder", None)):
        found = parse_location(text, None, KEY_VALUE_SCHEMES)
        assert (found.scheme, found.name) == ("path", name)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ann:hush@h/db#data_x",
        "postgresql+psycopg2://ann:hu@sh@h/db",
        "qdrant+https://:hush@h#c",
        "chroma+http://hush@h#c",
        "weaviate://ann:hush@h",
    ],
)
def test_no_message_has_a_password(text: str) -> None:
    try:
        found = vectors_at(text)
    except UsageError as error:
        shown = str(error)
    else:
        shown = repr(found) + found.shown
    assert "hush" not in shown and "sh@" not in shown


def test_an_unknown_option_is_refused_and_the_error_says_which_there_are() -> None:
    with pytest.raises(UsageError, match=r"option 'api_key'.*options of qdrant: vector.*RAGSTORE_FROM_SECRET"):
        vectors_at("qdrant+http://h?api_key=x").take("vector")


def test_an_error_of_a_client_is_told_without_the_secret() -> None:
    location = vectors_at("qdrant+http://h#c", secret="hush-hush")
    with pytest.raises(ForeignStoreError) as told, client_errors(location):
        raise ValueError("401: the key hush-hush of redis://:other@h is wrong")
    assert "401: the key ******** of redis://:********@h is wrong" in str(told.value)
    assert told.value.__cause__ is None


def test_a_missing_client_is_told_by_the_name_of_its_extra() -> None:
    with pytest.raises(UsageError, match=r"pip install 'ragstore\[chroma\]'"):
        client_module("no_such_client_at_all", "chroma")


@pytest.mark.parametrize("text", ["milvus:nothing.db#c", "faiss:nothing"])
def test_what_does_not_exist_is_refused_and_not_made(text: str, tmp_path: Path) -> None:
    location = vectors_at(text)
    with pytest.raises(PathNotFoundError, match="does not exist"):
        location.local_path()
    assert not list(tmp_path.iterdir())


def test_a_record_of_langchain_becomes_a_node_of_its_document() -> None:
    record = Record("7", None, None, {"page_content": "The text.", "metadata": {"source": "a.txt", "page": 3}})
    assert keys_of(record.metadata) == ["page_content", "metadata.source", "metadata.page"]
    assert value_at(record.metadata, "metadata.page") == 3
    node = node_of_record(record, RecordKeys("page_content", "metadata.source"))
    assert (node.node_id, node.text, node.document_id) == ("7", "The text.", "a.txt")
    assert node.metadata == {"source": "a.txt", "page": 3}


def test_an_entry_of_llamaindex_keeps_the_nodes_own_id() -> None:
    content = '{"id_": "n1", "class_name": "TextNode", "text": "The text.", "metadata": {}}'
    record = Record("doc#n1", None, None, {"_node_content": content, "_node_type": "TextNode"})
    node = node_of_record(record, RecordKeys(None, None))
    assert (node.node_id, node.text) == ("n1", "The text.")
