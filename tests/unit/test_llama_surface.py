"""The faces against LlamaIndex's own classes: no public method is missed, none differs in its signature or in the docs."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.storage.docstore.mongodb import MongoDocumentStore
from llama_index.storage.index_store.mongodb import MongoIndexStore
from llama_index.vector_stores.postgres import PGVectorStore
from pydantic import BaseModel

import ragstore.llama
from ragstore.errors import UsageError
from ragstore.llama import RagstoreDocumentStore, RagstoreIndexStore, RagstoreVectorIndex, RagstoreVectorStore

README = Path(ragstore.llama.__file__).with_name("README.md")

FACES: dict[type, type] = {
    RagstoreVectorStore: PGVectorStore,
    RagstoreDocumentStore: MongoDocumentStore,
    RagstoreIndexStore: MongoIndexStore,
    RagstoreVectorIndex: VectorStoreIndex,
}
EACH_FACE = pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)

# What upstream's own is right for, and why.
INHERITED: dict[type, dict[str, str]] = {
    RagstoreVectorStore: {
        "class_name": "code that looks at it takes it for a PGVectorStore, which it is",
        "custom_model_dump": "fields, without URLs",
        "to_dict": "fields, without URLs",
        "to_json": "fields, without URLs",
        "persist": "does nothing",
    },
    RagstoreDocumentStore: {
        "get_node": "calls get_document",
        "aget_node": "calls aget_document",
        "ref_doc_exists": "calls get_ref_doc_info",
        "aref_doc_exists": "calls aget_ref_doc_info",
        "persist": "does nothing",
    },
    RagstoreIndexStore: {"persist": "does nothing"},
    RagstoreVectorIndex: dict.fromkeys(
        (
            "adelete_nodes adelete_ref_doc ainsert ainsert_nodes arefresh_ref_docs as_chat_engine as_query_engine "
            "as_retriever aupdate_ref_doc build_index_from_nodes delete delete_nodes delete_ref_doc docstore "
            "from_documents from_vector_store index_id index_struct insert insert_nodes refresh refresh_ref_docs "
            "set_index_id storage_context summary update update_ref_doc vector_store"
        ).split(),
        "reaches the databases by the stores alone",
    ),
}
REFUSED = {"from_params", "from_dict", "from_json", "from_uri", "from_host_and_port"}


def public(upstream: type) -> set[str]:
    return {name for name in dir(upstream) if not name.startswith("_") and not hasattr(BaseModel, name)}


def overridden(face: type) -> set[str]:
    upstream = FACES[face]
    return {name for name in public(upstream) if _definer(face, name) is not _definer(upstream, name)}


def _definer(of: type, name: str) -> type | None:
    return next((each for each in of.__mro__ if name in vars(each)), None)


@EACH_FACE
def test_every_public_method_of_upstream_is_overridden_or_known_to_be_right(face: type) -> None:
    assert public(FACES[face]) - overridden(face) == INHERITED[face].keys()


@EACH_FACE
def test_methods_take_the_same_arguments_as_upstreams(face: type) -> None:
    for name in overridden(face) - REFUSED:
        ours, upstreams = inspect.getattr_static(face, name), inspect.getattr_static(FACES[face], name)
        assert isinstance(ours, property) == isinstance(upstreams, property), name
        if inspect.isfunction(upstreams):
            assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(upstreams), name
            assert arguments(ours) == arguments(upstreams), name


def arguments(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("face", [RagstoreVectorStore, RagstoreDocumentStore, RagstoreIndexStore])
def test_constructors_that_know_one_database_are_refused_with_advice(face: type) -> None:
    names = overridden(face) & REFUSED
    assert names
    for name in names:
        with pytest.raises(UsageError, match=face.__name__) as caught:
            getattr(face, name)("anything", of="any kind")
        assert "storage_context" in caught.value.hint


@cache
def documented() -> dict[str, set[str]]:
    """Class → methods that the tables of the README name."""
    sections = re.split(r"^### ", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tables = {section.partition("\n")[0]: section for section in sections if section.startswith("Ragstore")}
    cells = {name: re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name, table in tables.items()}
    return {
        name: {method for cell in found for method in re.findall(r"`(\w+)`", cell)} for name, found in cells.items()
    }


@EACH_FACE
def test_the_readme_names_exactly_the_methods_that_differ(face: type) -> None:
    assert documented()[face.__name__] == overridden(face)


def test_the_readme_has_no_other_tables_of_methods() -> None:
    assert documented().keys() == {face.__name__ for face in FACES}
