from __future__ import annotations

from pathlib import Path

import pytest
from llama_index.core.schema import MetadataMode
from pydantic import SecretStr

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from ragstore.transfer.comparison import AskedVector
from tests.support.llama_faces import Faces
from tests.support.transfers import Transfer
from tests.systems.scenes import N_NODES, VECTOR_STORES, Filled, documents, nodes_of, unit

QUESTIONS = [f"sentence {i % 10} of d{i} in version 1" for i in range(100)]


@pytest.fixture(params=VECTOR_STORES)
def system(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def opened(settings: Settings, there: Filled) -> Ragstore:
    return ragstore.open(settings.model_copy(update={"from_secret": SecretStr(there.secret) if there.secret else None}))


def test_all_nodes_come_over_without_embedding_and_are_found_as_before(
    settings: Settings, faces: Faces, tmp_path: Path, system: str
) -> None:
    nodes = nodes_of(documents(N_NODES))
    with VECTOR_STORES[system](tmp_path, nodes) as there, opened(settings, there) as store:
        report = store.adopt(there.place, collection="docs")
        assert (report.nodes, report.embedded, report.skipped) == (len(nodes), 0, 0)
        assert report.documents == N_NODES // 10
        assert (report.left_behind.counts, report.noted.counts) == ({}, there.noted)
        for question in QUESTIONS:
            hits = store.query(question, collection="docs", mode="vector", top_k=10, embedding=unit(question))
            assert [hit.node_id for hit in hits] == there.query(unit(question), 10), question
        compared = store.compare(there.place, [AskedVector(q, unit(q)) for q in QUESTIONS], collection="docs")
        assert (compared.overlap, compared.n_equal) == (1.0, 100)
        again = store.adopt(there.place, collection="docs")
        assert (again.documents, again.nodes, again.skipped) == (0, 0, len(nodes))
        for node in nodes[:: max(len(nodes) // 50, 1)]:
            (ours,) = store.storage_context("docs").docstore.get_nodes([node.node_id])
            assert ours.get_content(MetadataMode.NONE) == node.text
            assert (ours.metadata, ours.relationships) == (node.metadata, node.relationships)
    faces.assert_agree()


def test_an_adoption_that_is_killed_and_run_again_is_complete_and_nothing_is_doubled(
    settings: Settings, faces: Faces, tmp_path: Path, system: str
) -> None:
    nodes = nodes_of(documents(60))
    with VECTOR_STORES[system](tmp_path, nodes) as there, opened(settings, there) as store:
        # Each is passed whatever those before it have left.
        for failpoint in ("direct_written:2", "direct_committed:1", "direct_finished:3"):
            assert not Transfer(settings, "adopt", there.place, failpoint=failpoint, secret=there.secret).survived(), (
                failpoint
            )
            faces.until_recovered()
            faces.assert_agree()
            assert 0 < sum(faces.texts().values()) < len(nodes)
        report = store.adopt(there.place, collection="docs")
    assert report.nodes + report.skipped == len(nodes)
    assert faces.texts() == {node.text: 1 for node in nodes}
    faces.assert_agree()
