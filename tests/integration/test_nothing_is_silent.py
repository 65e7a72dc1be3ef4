"""What is skipped, made, refused, removed, lost or misspelled is said by name; what is closed says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

import ragstore
from ragstore.app import Ragstore, servers
from ragstore.errors import ClosedError, CollectionNotFoundError, MassDeletionError, UsageError
from ragstore.model.collection import Collection
from ragstore.model.filters import Condition, Filter, Group
from ragstore.postgres.collections import get_collection
from ragstore.postgres.filter_keys import sampled_keys
from ragstore.query.filter_text import parse_filter
from ragstore.query.no_hits import Advice
from ragstore.settings import Settings
from tests.support.internals import backend_of, pool_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.txt").write_text(f"The pump number {number} needs oil every week.\n")
    for name in ("photo.png", "scan.PNG", "scan", ".hidden.txt"):
        (folder / name).write_text("x")
    return folder


def test_an_ingest_says_what_it_passed_over_and_what_it_made(store: Ragstore, folder: Path) -> None:
    foretold = store.sync(folder, collection="docs", dry_run=True)
    report = store.ingest(folder, collection="docs")
    for each in (foretold, report):
        assert each.added == 12
        assert each.passed_over.counts == {"hidden": 1, "no type": 1, "type .png": 2}
        assert each.as_dict()["collection_made"] == {"name": "docs", "model": "wordllama", "dim": 256}
    again = store.ingest(folder, collection="docs")
    assert (again.unchanged, again.collection_made) == (12, None)


def test_a_dry_run_foretells_names_and_refusal_of_the_sync(store: Ragstore, folder: Path) -> None:
    store.ingest(folder, collection="docs")
    gone = sorted(str(path) for path in folder.glob("[0-9]*.txt"))[:11]
    for path in gone:
        Path(path).unlink()
    foretold = store.sync(folder, collection="docs", dry_run=True)
    assert (foretold.deleted, foretold.deleted_documents) == (11, gone)
    with pytest.raises(MassDeletionError) as refused:
        store.sync(folder, collection="docs")
    assert foretold.refused is not None
    assert (foretold.refused.message, foretold.refused.hint) == (refused.value.message, refused.value.hint)
    assert refused.value.facts["lost_documents"] == gone
    assert "allow_mass_delete=True" in str(refused.value)
    assert "--" not in str(refused.value)
    assert store.sync(folder, collection="docs", dry_run=True, allow_mass_delete=True).refused is None
    done = store.sync(folder, collection="docs", allow_mass_delete=True)
    assert (sorted(done.deleted_documents), done.deleted) == (gone, 11)


def test_a_file_that_moved_is_not_said_to_be_deleted(store: Ragstore, folder: Path) -> None:
    store.ingest(folder, collection="docs")
    (folder / "00.txt").rename(folder / "moved.txt")
    (folder / "01.txt").unlink()
    foretold = store.sync(folder, collection="docs", dry_run=True)
    assert (foretold.renamed, foretold.deleted_documents) == (1, [str(folder / "01.txt")])
    assert store.sync(folder, collection="docs").deleted_documents == foretold.deleted_documents


def test_what_is_set_aside_is_named_each_time(store: Ragstore, folder: Path) -> None:
    broken = folder / "broken.pdf"
    broken.write_bytes(b"%PDF-1.4 cut off")
    for _ in range(2):
        report = store.ingest(folder, collection="docs")
        (entry,) = report.quarantined
        assert (report.failed, entry.document_id) == (1, str(broken))
        assert entry.code.startswith("content.")
        assert entry.reason
    assert [each.reason for each in store.sync(folder, collection="docs", dry_run=True).quarantined] == [entry.reason]


def test_a_declared_key_comes_with_the_ingest_that_makes_the_collection(store: Ragstore, folder: Path) -> None:
    report = store.ingest(folder, collection="docs", filter_keys=["year"])
    assert report.collection_made is not None
    store.sync(folder, collection="docs", filter_keys=["lang"])
    assert set(store.create_collection("docs").filter_keys) == {"year", "lang"}


@pytest.fixture
def asked(store: Ragstore, folder: Path) -> Callable[[Filter], tuple[str, ...]]:
    store.ingest(folder, collection="docs")
    return lambda filters: store.query("oil", collection="docs", filters=filters).notes


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (parse_filter("file_typ=txt"), "no node has metadata key 'file_typ'; did you mean 'file_type'?"),
        (parse_filter("File_Name=00.txt"), "no node has metadata key 'File_Name'; did you mean 'file_name'?"),
        (Group("and", (Condition("file_type", "==", "txt"), Condition("flie_name", "==", "x"))), "'flie_name'"),
        (Group("not", (Group("or", (Condition("nothing", "is_empty"),)),)), "'nothing'; there are "),
        (parse_filter("file_name:above=x"), "key 'file_name' is there, and 'above' is no operator"),
    ],
)
def test_a_key_that_no_node_has_is_said_with_the_one_that_was_meant(
    asked: Callable[[Filter], tuple[str, ...]], filters: Filter, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("ragstore").propagate = True
    with caplog.at_level(logging.WARNING):
        (note,) = asked(filters)
    assert said in note
    assert note in caplog.text


def test_a_retriever_says_it_in_the_log(store: Ragstore, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.ingest(folder, collection="docs")
    logging.getLogger("ragstore").propagate = True
    index = store.index("docs")
    for key, said in (("file_typ", "did you mean 'file_type'?"), ("file_type", "")):
        filters = MetadataFilters(filters=[MetadataFilter(key=key, value="none")])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert index.as_retriever(filters=filters).retrieve("oil") == []
        assert (said in caplog.text) if said else (caplog.text == "")


def test_a_filter_that_is_right_has_no_note(asked: Callable[[Filter], tuple[str, ...]]) -> None:
    assert asked(Condition("file_type", "==", "none")) == ()
    assert asked(Condition("file_name", "==", "00.txt")) == ()


def test_keys_are_looked_for_in_a_bounded_number_of_nodes(store: Ragstore, folder: Path) -> None:
    store.ingest(folder, collection="docs")
    collection = get_collection(pool_of(store), "docs")
    assert sampled_keys(pool_of(store), collection).is_all
    few = sampled_keys(pool_of(store), collection, at_each_end=2)
    assert (few.n_nodes, few.is_all, "file_type" in few.keys) == (4, False, True)


def test_a_service_that_asks_in_vain_looks_at_the_keys_now_and_then(
    store: Ragstore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ingest(folder, collection="docs")
    times, looks = iter([0.0, 1.0, 100.0, 100.0]), []
    real = sampled_keys

    def counted(pool: Any, collection: Collection) -> Any:
        looks.append(pool)
        return real(pool, collection)

    monkeypatch.setattr("ragstore.query.no_hits.sampled_keys", counted)
    advice = Advice(pool_of(store), clock=lambda: next(times))
    collection = get_collection(pool_of(store), "docs")
    for n_looks in (1, 1, 2):
        assert advice.notes(collection, Condition("nope", "==", 1))
        assert len(looks) == n_looks


def test_scores_say_what_they_are(store: Ragstore, folder: Path) -> None:
    store.ingest(folder, collection="docs")
    kinds = {
        mode: store.query("oil", collection="docs", mode=mode).score_kind for mode in ("vector", "keyword", "hybrid")
    }
    assert kinds == {"vector": "cosine", "keyword": "word_rank", "hybrid": "rank_fusion"}
    assert store.query("oil", collection="docs", mmr_lambda=0.5).score_kind == "mmr"


USES: dict[str, Callable[[Ragstore], object]] = {
    "query": lambda rs: rs.query("oil", collection="docs"),
    "ask": lambda rs: rs.ask("oil", collection="docs"),
    "ingest": lambda rs: rs.ingest(".", collection="docs"),
    "sync": lambda rs: rs.sync(".", collection="docs"),
    "dry run": lambda rs: rs.sync(".", collection="docs", dry_run=True),
    "documents": lambda rs: list(rs.documents("docs")),
    "history": lambda rs: rs.history("a", "docs"),
    "delete": lambda rs: rs.delete("a", collection="docs"),
    "quarantined": lambda rs: rs.quarantined("docs"),
    "retry": lambda rs: rs.retry_quarantine(collection="docs"),
    "collections": lambda rs: rs.collections(),
    "create": lambda rs: rs.create_collection("other"),
    "drop": lambda rs: rs.drop_collection("docs"),
    "verify": lambda rs: rs.verify(),
    "repair": lambda rs: rs.repair(),
    "context": lambda rs: rs.storage_context("docs"),
    "index": lambda rs: rs.index("docs"),
    "model": lambda rs: rs.embed_model("docs"),
    "export": lambda rs: rs.export("out", collection="docs"),
    "upkeep": lambda rs: rs.upkeep(),
}


@pytest.mark.parametrize("warm", [True, False])
def test_what_is_closed_is_refused(settings: Settings, folder: Path, warm: bool) -> None:
    with ragstore.open(settings) as rs:
        rs.create_collection("docs")
        if warm:
            rs.ingest(folder, collection="docs")
            rs.query("oil", collection="docs")
    for name, use in USES.items():
        with pytest.raises(ClosedError, match="closed"):
            use(rs)
            pytest.fail(name)
    rs.close()


def test_what_came_from_a_closed_store_is_refused(settings: Settings) -> None:
    with ragstore.open(settings) as rs:
        rs.create_collection("docs", model="wordllama")
        context, model = rs.storage_context("docs"), rs.embed_model("docs")
        document = Document(id_="d", text="The pump needs oil.")
        index = VectorStoreIndex.from_documents([document], storage_context=context, embed_model=model)
        retriever = index.as_retriever(similarity_top_k=1)
        assert retriever.retrieve("oil")
    node = TextNode(id_="n", text="x", embedding=[0.1] * 256)
    uses: list[Callable[[], object]] = [
        lambda: retriever.retrieve("oil"),
        lambda: index.insert(Document(id_="e", text="x")),
        lambda: context.vector_store.add([node]),
        lambda: context.docstore.add_documents([node]),
        lambda: context.docstore.get_document_hash("d"),
        lambda: context.docstore.delete_ref_doc("d"),
        context.index_store.index_structs,
        lambda: context.graph_store.get("a"),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="closed"):
            use()


def test_status_says_which_store_lost_what(store: Ragstore, settings: Settings, folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    store.ingest(folder, collection="docs")
    store.ingest(folder, collection="other")
    whole = servers.status(settings).whole
    assert whole is not None
    assert (whole.ok, whole.quarantined) == (True, {"docs": 1, "other": 1})
    backend = backend_of(store)
    backend.database["docs/data"].drop()
    with pool_of(store).transaction() as cursor:
        cursor.execute("DROP TABLE ragstore.data_other")
    whole = servers.status(settings).whole
    assert whole is not None
    assert (whole.ok, whole.missing_tables, whole.empty_in_mongo) == (False, ["other"], ["docs"])


def test_python_is_told_what_python_can_do(store: Ragstore) -> None:
    with pytest.raises(CollectionNotFoundError) as missing:
        store.query("oil", collection="nope")
    assert "create_collection('nope')" in str(missing.value)
    assert "ragstore ingest" in missing.value.hint
    store.create_collection("outside", model="external", dim=4)
    with pytest.raises(UsageError) as refused:
        store.query("oil", collection="outside")
    assert "embedding=" in str(refused.value) and "--mode" not in str(refused.value)
    assert "embedding=" not in refused.value.hint


def test_an_import_does_not_take_the_name_of_another_collection(store: Ragstore, folder: Path, tmp_path: Path) -> None:
    store.ingest(folder, collection="first")
    store.export(tmp_path / "out", collection="first")
    for name in ("second", "third"):
        report = store.import_(tmp_path / "out", collection=name, filter_keys=["year"])
        assert report.collection_made is not None
        assert (report.noted.counts, report.collection_made.name) == ({"indexes_renamed": 1}, name)
        assert [each.index_id for each in store.storage_context(name).index_store.index_structs()] == [name]
        assert store.create_collection(name).filter_keys == ("year",)
