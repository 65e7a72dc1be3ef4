"""Backup and restore: what was there comes back in both stores, or nothing does and the reason is named."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.graph_stores.types import EntityNode, Relation
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode

import ragstore
from ragstore.app import Ragstore, backups
from ragstore.app.backups import Wanted
from ragstore.app.servers import status
from ragstore.errors import (
    BackupKeyError,
    BackupLostError,
    EpochEndedError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from ragstore.settings import Settings
from tests.support.backups import Other, another_pair
from tests.support.corpus import a_text, write_documents
from tests.support.drift import COLLECTION, SMALL
from tests.support.parts import execute
from tests.support.servers import Servers

EXTERNAL = "notes"
TABLES = {
    "document": "document_id, source_uri, n_nodes, fingerprint, content_hash, doc_hash, size, metadata, deleted_at",
    "quarantine": "document_id, source_uri, code, reason, hint, retry, attempts, first_at, last_at",
    "body": "node_id, document_id, stamp, type_key, content",
    "triplet": "subject, relation, object",
    "graph_node": "node_id, kind, label, name, text, properties, embedding, sources",
    "graph_relation": "source_id, label, target_id, properties, sources",
    "index_struct": "index_id, kind, body",
    "asked": "slot, embedding::text",
}


@pytest.fixture
def other(test_servers: Servers, template_database: str, settings: Settings) -> Iterator[Other]:
    with another_pair(test_servers, template_database, settings) as made:
        yield made


def fill(rs: Ragstore, folder: Path) -> dict[str, str]:
    """Files, LlamaIndex nodes with and without vectors, graphs, index structs, a quarantine and asked questions."""
    rs.create_collection(COLLECTION, **SMALL)
    state = write_documents(folder, {f"{i}.txt": a_text(i, 8) for i in range(6)})
    broken = folder / "broken.pdf"
    broken.write_bytes(b"%PDF-1.4 no more")
    rs.ingest(folder, collection=COLLECTION)
    gone = folder / "5.txt"
    rs.delete(str(gone), collection=COLLECTION)
    gone.unlink()
    state.pop(str(gone))
    rs.create_collection(EXTERNAL, model="external", dim=3, vector_type="halfvec", filter_keys=["year"])
    context = rs.storage_context(EXTERNAL)
    source = RelatedNodeInfo(node_id="doc")
    nodes = [
        TextNode(id_=f"n{i}", text=f"näme \t\n\\ {i}", embedding=[1.0, i, 0.5], metadata={"year": i, "x": "\\N"})
        for i in range(9)
    ]
    for node in nodes[:5]:
        node.relationships[NodeRelationship.SOURCE] = source
    context.vector_store.add(nodes)
    context.docstore.add_documents([Document(text="whole\ttext", id_="doc"), TextNode(id_="parent", text="without")])
    SummaryIndex(nodes=[TextNode(id_="s", text="listed")], storage_context=context).set_index_id("list")
    context.graph_store.upsert_triplet("a\\b", "knows", "c\td")
    assert context.property_graph_store is not None
    context.property_graph_store.upsert_nodes(
        [EntityNode(name="e1", label="L", properties={"k": 1}), EntityNode(name="e2", label="L")]
    )
    context.property_graph_store.upsert_relations([Relation(label="R", source_id="e1", target_id="e2")])
    rs.query("anything", collection=EXTERNAL, embedding=[1.0, 2.0, 0.5], mode="vector")
    return state


@pytest.fixture
def state(store: Ragstore, tmp_path: Path) -> dict[str, str]:
    return fill(store, tmp_path / "docs")


def content(settings: Settings, name: str, *, renamed: str | None = None) -> dict[str, Any]:
    """What PostgreSQL has of a collection, in comparable form."""
    ((collection_id,),) = execute(
        settings, "SELECT collection_id FROM ragstore.collection WHERE name = %s", [renamed or name]
    )
    found: dict[str, Any] = {
        table: sorted(
            map(str, execute(settings, f"SELECT {columns} FROM ragstore.{table} WHERE collection_id = {collection_id}"))
        )
        for table, columns in TABLES.items()
    }
    columns = "id, node_id, text, metadata_, embedding::text, document_id, ordinal, start_char, end_char, user_metadata"
    rows = execute(
        settings, f'SELECT {columns}, chunk_hash::text, text_search_tsv::text FROM ragstore."data_{renamed or name}"'
    )
    found["rows"] = sorted(map(str, rows))
    settings_of = "model, dim, chunk_size, chunk_overlap, text_search_config, filter_keys, vector_type, created_at"
    found["settings"] = execute(
        settings, f"SELECT {settings_of} FROM ragstore.collection WHERE collection_id = {collection_id}"
    )
    events = "at, worker, document_id, revision, action, run_id, n_nodes, n_embedded, n_reused, detail"
    found["events"] = execute(
        settings,
        f"SELECT {events} FROM ragstore.event WHERE collection = %s AND action NOT IN ('restored', 'epoch_begun') "
        "ORDER BY event_id",
        [renamed or name],
    )
    return found


def bodies(mongo: Any, name: str) -> list[Any]:
    return sorted((body["_id"], body["__type__"], body["__data__"]) for body in mongo[f"{name}/data"].find())


def test_everything_comes_back_in_an_empty_pair(
    store: Ragstore, settings: Settings, mongo_database: Any, state: dict[str, str], other: Other, tmp_path: Path
) -> None:
    made = backups.create(settings, str(tmp_path / "t"))
    assert set(made.collections) == {COLLECTION, EXTERNAL}
    report = backups.restore(other.settings, str(tmp_path / "t"))
    assert (report.ok, report.notes, report.replaced) == (True, [], [])
    assert (report.documents, report.nodes) == (made.documents, made.nodes)
    for name in (COLLECTION, EXTERNAL):
        assert content(other.settings, name) == content(settings, name)
        assert bodies(other.mongo, name) == bodies(mongo_database, name)
    execute(other.settings, "DELETE FROM ragstore.quarantine RETURNING document_id")
    other.oracle(COLLECTION).assert_settled(state)
    with other.open() as rs:
        assert rs.verify(deep=True).ok
        for question in (a_text(2, 3), "listed"):
            assert [h.node_id for h in rs.query(question, collection=COLLECTION)] == [
                h.node_id for h in store.query(question, collection=COLLECTION)
            ]
        assert [s.name for s in rs.collections()] == [s.name for s in store.collections()]
        rs.sync(tmp_path / "docs", collection=COLLECTION)
        rs.storage_context(EXTERNAL).vector_store.add([TextNode(id_="later", text="later", embedding=[0.0, 1, 0])])
        assert rs.storage_context(EXTERNAL).graph_store.get("a\\b") == [["knows", "c\td"]]
        assert rs.verify(deep=True).ok
    assert status(other.settings).stores["ok"]


def test_an_encrypted_backup_needs_its_key_and_shows_no_text(
    settings: Settings, state: dict[str, str], other: Other, tmp_path: Path
) -> None:
    key, wrong = tmp_path / "key", tmp_path / "wrong"
    for each in (key, wrong):
        each.write_bytes(os.urandom(32))
    target = str(tmp_path / "t")
    backups.create(settings, target, key=key)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file())
    assert not any(word in stored for word in (EXTERNAL.encode(), b"broken.pdf", a_text(1, 1)[:20].encode()))
    for given in (None, wrong):
        with pytest.raises(BackupKeyError, match="encrypted with key"):
            backups.restore(other.settings, target, key=given)
    with pytest.raises(UsageError, match="at least 32"):
        (tmp_path / "short").write_bytes(b"short")
        backups.create(settings, target, key=tmp_path / "short")
    assert backups.verify(target).ok
    assert not backups.verify(target).content_checked
    assert backups.verify(target, key=key).content_checked
    again = backups.create(settings, target, key=key)
    assert again.bytes_new == 0
    assert backups.restore(other.settings, target, key=key).ok
    assert content(other.settings, EXTERNAL) == content(settings, EXTERNAL)


def test_a_later_backup_stores_only_what_changed_and_both_restore(
    store: Ragstore, settings: Settings, state: dict[str, str], other: Other, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    first = backups.create(settings, target)
    before = content(settings, EXTERNAL)
    packs = set((tmp_path / "t" / "packs").rglob("*"))
    store.storage_context(EXTERNAL).vector_store.add([TextNode(id_="new", text="new", embedding=[0.5, 0.5, 0])])
    store.storage_context(EXTERNAL).vector_store.delete_nodes(["n7"])
    second = backups.create(settings, target)
    assert second.n_packs_kept == first.n_packs
    assert second.bytes_new < first.bytes_new
    assert packs < set((tmp_path / "t" / "packs").rglob("*"))
    after = content(settings, EXTERNAL)
    assert backups.restore(other.settings, target, Wanted(first.id, renamed=[f"{EXTERNAL}=first"])).ok
    assert backups.restore(other.settings, target, Wanted(collections=[EXTERNAL])).ok
    assert content(other.settings, EXTERNAL, renamed="first")["rows"] == before["rows"]
    assert content(other.settings, EXTERNAL)["rows"] == after["rows"]


def test_vectors_that_were_replaced_in_place_are_stored_again(
    store: Ragstore, settings: Settings, state: dict[str, str], other: Other, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    backups.create(settings, target)
    execute(settings, f"UPDATE ragstore.data_{EXTERNAL} SET embedding = '[3,2,1]' WHERE node_id = 'n3' RETURNING id")
    backups.create(settings, target)
    backups.restore(other.settings, target)
    assert content(other.settings, EXTERNAL)["rows"] == content(settings, EXTERNAL)["rows"]


def test_beside_what_is_there_under_another_name(
    store: Ragstore, settings: Settings, mongo_database: Any, state: dict[str, str], tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    backups.create(settings, target, collections=[EXTERNAL])
    before = content(settings, EXTERNAL)
    with pytest.raises(RefusedError, match="already") as refused:
        backups.restore(settings, target)
    assert "--replace" in refused.value.hint
    report = backups.restore(settings, target, Wanted(renamed=["copy"]))
    assert report.ok and any("index list renamed to list-copy" in note for note in report.notes)
    assert content(settings, EXTERNAL) == before
    copied = content(settings, EXTERNAL, renamed="copy")
    assert {k: v for k, v in copied.items() if k != "index_struct"} == {
        k: v for k, v in before.items() if k != "index_struct"
    }
    assert bodies(mongo_database, "copy") == bodies(mongo_database, EXTERNAL)
    with ragstore.open(settings) as rs:
        assert rs.verify(deep=True).ok
        rs.drop_collection("copy")
        assert rs.verify(deep=True).ok
    assert content(settings, EXTERNAL) == before


def test_replace_gives_up_what_is_there_and_fences_writers_of_before(
    store: Ragstore, settings: Settings, mongo_database: Any, state: dict[str, str], tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    backups.create(settings, target)
    before = content(settings, EXTERNAL)
    context = store.storage_context(EXTERNAL)
    context.vector_store.add([TextNode(id_=f"late{i}", text="late", embedding=[1.0, 1, 1]) for i in range(3)])
    context.vector_store.add([TextNode(id_="n1", text="written again", embedding=[1.0, 1, 1])])
    context.vector_store.delete_nodes(["n2", "n3"])
    report = backups.restore(settings, target, Wanted(collections=[EXTERNAL], replace=True))
    assert report.ok and report.replaced == [EXTERNAL]
    after = content(settings, EXTERNAL)
    assert after["rows"] == before["rows"]
    assert {i for i, _, _ in bodies(mongo_database, EXTERNAL)} == {
        *(f"n{i}" for i in range(9)), "s", "doc", "parent"
    }  # fmt: skip
    with pytest.raises((EpochEndedError, NotFoundError)):
        context.vector_store.add([TextNode(id_="fenced", text="late", embedding=[1.0, 1, 1])])
    with ragstore.open(settings) as rs:
        rs.storage_context(EXTERNAL).vector_store.add([TextNode(id_="n2", text="again", embedding=[1.0, 1, 1])])
        assert rs.verify(deep=True).ok


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(len(data)).randrange(len(data))] ^= 1
    _write(path, bytes(data))


def damage_cut(path: Path) -> None:
    _write(path, path.read_bytes()[:-1])


def damage_empty(path: Path) -> None:
    _write(path, b"")


def damage_remove(path: Path) -> None:
    path.unlink()


def _write(path: Path, data: bytes) -> None:
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "encrypted"),
    [(damage_flip, False), (damage_flip, True), (damage_cut, False), (damage_empty, False), (damage_remove, False)],
)
def test_damage_anywhere_is_found_named_and_nothing_is_restored(
    damage: Callable[[Path], None],
    encrypted: bool,
    settings: Settings,
    state: dict[str, str],
    other: Other,
    tmp_path: Path,
) -> None:
    key = tmp_path / "key" if encrypted else None
    if key:
        key.write_bytes(os.urandom(32))
    root = tmp_path / "t"
    backups.create(settings, str(root), key=key)
    newest = backups.create(settings, str(root), key=key)
    assert backups.verify(str(root), key=key).ok
    needed = [p for folder in ("packs", "ledger", "backups") for p in sorted((root / folder).rglob("*")) if p.is_file()]
    assert len(needed) > 10
    for path in needed:
        whole = path.read_bytes()
        damage(path)
        name = path.relative_to(root).as_posix()
        is_newest_manifest = name.startswith(f"backups/{newest.id}")
        report = backups.verify(str(root))
        if damage is damage_remove and is_newest_manifest:
            assert report.backups == report.whole  # nobody knows that there was one
        else:
            assert not report.ok
            # A manifest's name ends with its hash, which whoever misses it does not know.
            assert any(name.startswith(loss.name) for loss in report.losses), (name, report.losses)
            if damage is not damage_remove or name.startswith(("packs", "ledger")):
                wanted = Wanted(name.split("/")[1][:31]) if name.startswith("backups") else Wanted(newest.id)
                with pytest.raises(BackupLostError) as raised:
                    backups.restore(other.settings, str(root), wanted, key=key)
                assert name in str(raised.value)
        with other.open() as rs:
            assert rs.collections() == []
        assert other.leftovers() == []
        _write(path, whole) if path.exists() else path.write_bytes(whole)
    assert backups.verify(str(root), key=key).ok
    assert backups.restore(other.settings, str(root), key=key).ok


def test_a_known_loss_stays_listed_and_the_next_backup_is_whole(
    settings: Settings, state: dict[str, str], other: Other, tmp_path: Path
) -> None:
    root = tmp_path / "t"
    first = backups.create(settings, str(root))
    path = next(p for p in (root / "packs").rglob("*") if p.is_file())
    name = path.relative_to(root).as_posix()
    damage_flip(path)
    report = backups.verify(str(root), acknowledge=[name])
    assert report.ok
    assert [(loss.name, loss.acknowledged, loss.backups) for loss in report.losses] == [(name, True, [first.id])]
    second = backups.create(settings, str(root))
    assert second.objects_new > 0
    report = backups.verify(str(root))
    assert report.whole == [second.id] and len(report.losses) == 1
    with pytest.raises(BackupLostError):
        backups.restore(other.settings, str(root), Wanted(first.id))
    assert backups.restore(other.settings, str(root)).ok


def test_create_changes_and_deletes_nothing_that_is_stored(
    store: Ragstore, settings: Settings, state: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "t"
    seen: dict[Path, tuple[int, int, bytes]] = {}
    for i in range(4):
        backups.create(settings, str(root))
        now = {p: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}
        assert seen.items() <= now.items()
        assert not any(path.suffix == ".partial" for path in now)
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in now)
        seen = now
        store.storage_context(EXTERNAL).vector_store.add([TextNode(id_=f"new{i}", text="new", embedding=[0.5, i, 0])])


def test_prune_deletes_what_is_not_kept_and_keeps_what_is_needed(
    store: Ragstore, settings: Settings, state: dict[str, str], other: Other, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    made = []
    for i in range(4):
        store.storage_context(EXTERNAL).vector_store.add([TextNode(id_=f"new{i}", text="new", embedding=[0.5, i, 0])])
        made.append(backups.create(settings, target))
    planned = backups.prune(target, "2", dry_run=True)
    assert len(backups.list_backups(target)[0]) == 4
    pruned = backups.prune(target, "2")
    assert pruned.deleted == planned.deleted == [each.id for each in made[:2]]
    assert pruned.objects_deleted > 0 and pruned.blocked_by is None
    report = backups.verify(target)
    assert (report.ok, report.whole, report.unreferenced) == (True, [each.id for each in made[2:]], 0)
    assert backups.restore(other.settings, target, Wanted(made[2].id)).ok
    with pytest.raises(UsageError, match="keep"):
        backups.prune(target, "all")
    backups.prune(target, "1")
    assert [head.id for head in backups.list_backups(target)[0]] == [made[3].id]


def test_prune_leaves_the_objects_of_a_backup_in_the_making(
    settings: Settings, state: dict[str, str], tmp_path: Path
) -> None:
    from ragstore.backup.catalog import Catalog

    target = str(tmp_path / "t")
    backups.create(settings, target)
    catalog = Catalog(backups.open_vault(target, None))
    catalog.announce("create")
    lonely = tmp_path / "t" / "packs" / "00" / "00-1"
    lonely.parent.mkdir(exist_ok=True)
    lonely.write_bytes(b"of a backup in the making")
    report = backups.prune(target, "1")
    assert report.blocked_by is not None and lonely.exists()
    announced = catalog.announce("prune")
    with pytest.raises(RefusedError, match="prune"):
        backups.create(settings, target)
    catalog.withdraw(announced)
    backups.create(settings, target)


def test_what_cannot_be_restored_is_refused_with_a_reason(
    settings: Settings, state: dict[str, str], other: Other, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    with pytest.raises(NotFoundError, match="no backup"):
        backups.restore(other.settings, target)
    with pytest.raises(NotFoundError, match="nope"):
        backups.create(settings, target, collections=["nope"])
    backups.create(settings, target)
    for wanted, words in (
        (Wanted(collections=["nope"]), "no collection 'nope'"),
        (Wanted(renamed=["new"]), "does not say which"),
        (Wanted(renamed=[f"{COLLECTION}=x", f"{EXTERNAL}=x"]), "same name"),
        (Wanted(renamed=[f"{COLLECTION}=Not A Name"]), "Not A Name"),
        (Wanted("2019"), "begin with '2019'"),
    ):
        with pytest.raises(UsageError, match=words):
            backups.restore(other.settings, target, wanted)
    with other.open() as rs:
        assert rs.collections() == []
