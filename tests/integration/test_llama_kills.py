"""LlamaIndex code killed anywhere and run again: nothing lost, doubled or stale, by plain SQL and pymongo."""

from __future__ import annotations

from collections import Counter

import pytest
from llama_index.core import Document

from tests.support.llama_children import OF_OTHER_THINGS, OPERATIONS, Place, some_documents
from tests.support.llama_faces import Faces, a_splitter

FAILPOINTS = [
    "direct_written",
    "direct_committed",
    "nodes_put",
    "ref_docs_half_put",
    "nodes_retired",
    "direct_finished",
]
AT_ONCE = {"from_documents", "refresh", "refresh_plain", "duplicates_only", "upserts", "upserts_and_delete"}
WITHOUT_A_GAP = {"insert"}


def texts_of(document: Document) -> Counter[str]:
    return Counter(node.get_content() for node in a_splitter().get_nodes_from_documents([document]))


def assert_each_has_a_whole_version(faces: Faces, before: list[Document], after: list[Document]) -> None:
    texts = faces.texts()
    for old, new in zip(before, after, strict=True):
        assert texts_of(old) <= texts or texts_of(new) <= texts, f"no version of {old.id_} is whole"


def assert_each_shows_one_version(faces: Faces, before: list[Document], after: list[Document]) -> None:
    for old, new in zip(before, after, strict=True):
        shown = faces.texts_of(old.id_)
        assert shown in (texts_of(old), texts_of(new)), f"{old.id_} is not one version"


@pytest.mark.parametrize("failpoint", FAILPOINTS)
@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - OF_OTHER_THINGS))
def test_killed_anywhere_and_run_again_it_ends_as_if_it_had_not_been_killed(
    faces: Faces, place: Place, operation: str, failpoint: str
) -> None:
    run = OPERATIONS[operation]
    run(faces, some_documents(1, "ab"))
    for nth in range(1, 100):
        before, after = some_documents(nth, "ab"), some_documents(nth + 1, "ab")
        survived = place.run(operation, after, failpoint=f"{failpoint}:{nth}")
        if operation in AT_ONCE:
            assert_each_shows_one_version(faces, before, after)
        if operation in WITHOUT_A_GAP:
            assert_each_has_a_whole_version(faces, before, after)
        faces.until_recovered()
        faces.assert_agree()
        run(faces, after)
        assert_complete(faces, operation, after)
        if survived:
            break
    assert nth > 1, "nothing was killed"


@pytest.mark.parametrize("operation", ["from_documents", "refresh", "refresh_plain", "upserts", "duplicates_only"])
def test_killed_during_an_update_whose_source_then_goes_back_it_ends_with_the_source(
    faces: Faces, place: Place, operation: str
) -> None:
    run = OPERATIONS[operation]
    documents, changed = some_documents(1, "ab"), some_documents(2, "ab")
    run(faces, documents)
    for failpoint in ("direct_written", "direct_committed"):
        for nth in range(1, 100):
            survived = place.run(operation, changed, failpoint=f"{failpoint}:{nth}")
            # Not recovered first: the next run finds what the killed one left behind.
            run(faces, documents)
            faces.until_recovered()
            assert_complete(faces, operation, documents)
            if survived:
                break
        assert nth > 1, "nothing was killed"


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_while_a_document_is_removed_it_is_gone_after_the_next_run(
    faces: Faces, place: Place, failpoint: str
) -> None:
    run = OPERATIONS["upserts_and_delete"]
    for nth in range(1, 100):
        run(faces, some_documents(1, "ab"))
        survived = place.run("upserts_and_delete", some_documents(1, "a"), failpoint=f"{failpoint}:{nth}")
        run(faces, some_documents(1, "a"))
        faces.until_recovered()
        assert_complete(faces, "upserts_and_delete", some_documents(1, "a"))
        if survived:
            break


def assert_complete(faces: Faces, operation: str, documents: list[Document]) -> None:
    faces.assert_holds(*documents)
    if operation in ("upserts", "duplicates_only", "upserts_and_delete"):
        docstore = faces.context().docstore
        assert docstore.get_nodes([d.id_ for d in documents]) == documents
