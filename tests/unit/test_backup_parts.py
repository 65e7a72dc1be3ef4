"""Parts of backups that need no database: packs, lists of rows, objects, and which backups a prune keeps."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstore.backup.catalog import Catalog
from ragstore.backup.packs import LIVE_ROW, OpenPack, PackWriter, live_part, packed_rows, unpacked_rows
from ragstore.backup.targets import open_target
from ragstore.backup.upkeep import Keep, list_backups, prune, verify_target
from ragstore.backup.vault import Key, Vault
from ragstore.errors import BackupError, BackupLostError, UsageError
from ragstore.model.backup import StoredObject
from tests.support.internals import in_small_steps_of_backups


def a_row(row_id: int, size: int = 3) -> bytes:
    return b"\0\x01\0\0\0\x08" + row_id.to_bytes(8, "big", signed=True) + b"x" * size


@given(st.sets(st.integers(-(2**40), 2**62), min_size=1, max_size=50), st.data())
def test_the_live_rows_of_a_pack_come_back_in_order(ids: set[int], data: st.DataObject) -> None:
    rows = {row_id: a_row(row_id, data.draw(st.integers(0, 20))) for row_id in sorted(ids)}
    pack = OpenPack()
    for row in rows.values():
        pack.add(row)
    live = sorted(data.draw(st.sets(st.sampled_from(sorted(ids)), min_size=1)))
    pieces, n = live_part(pack.content(), np.array(live, dtype=np.int64), "t", "p")
    assert (b"".join(pieces), n) == (b"".join(rows[row_id] for row_id in live), len(live))


def test_a_pack_that_lacks_rows_is_damaged() -> None:
    pack = OpenPack()
    for row_id in range(5):
        pack.add(a_row(row_id))
    for content, live in ((pack.content(), [9]), (pack.content()[:-1], [1]), (b"", [1]), (b"\xff" * 8, [1])):
        with pytest.raises(BackupLostError, match="damaged"):
            live_part(content, np.array(live, dtype=np.int64), "t", "p")


def test_packs_are_closed_by_size_and_a_long_row_is_one_by_itself() -> None:
    closed: list[list[int]] = []
    with in_small_steps_of_backups():
        writer = PackWriter(lambda pack: closed.append(pack.ids().tolist()))
        for row_id, size in ((1, 2_000), (2, 2_000), (3, 2_000), (4, 50_000), (5, 10)):
            writer.take(a_row(row_id, size))
        writer.close()
        writer.close()
    assert closed == [[1, 2], [3], [4], [5]]


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**32), st.integers(0, 9)), max_size=40))
def test_a_list_of_rows_comes_back(found: list[tuple[int, int, int]]) -> None:
    rows = np.array(sorted(found), dtype=LIVE_ROW)
    contents = list(packed_rows(rows))
    names = [StoredObject(f"n{i}", 0, "") for i in range(len(contents))]
    assert unpacked_rows(contents, "t", names).tolist() == rows.tolist()


def a_key(path: Path) -> Key:
    path.write_bytes(os.urandom(32))
    return Key.read(path)


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_object_is_itself_or_is_called_damaged(encrypted: bool, tmp_path: Path) -> None:
    vault = Vault(open_target(str(tmp_path / "t")), a_key(tmp_path / "key") if encrypted else None)
    content = b"text of a node " * 100
    stored = vault.put("packs", content)
    assert vault.get(stored) == content
    assert vault.put("packs", content) == stored
    assert (content[:15] in (tmp_path / "t" / stored.name).read_bytes()) is not encrypted
    others = [vault.put("packs", b"another"), StoredObject(stored.name, stored.size, "0" * 64)]
    (tmp_path / "t" / others[0].name).write_bytes((tmp_path / "t" / stored.name).read_bytes())
    for other in (others[1], StoredObject(others[0].name, stored.size, stored.checksum)):
        with pytest.raises(BackupLostError):
            vault.get(other)


def test_a_key_is_not_shown(tmp_path: Path) -> None:
    key = a_key(tmp_path / "key")
    assert key.cipher.hex() not in repr(key) and repr(key) == f"Key({key.id})"
    with pytest.raises(UsageError, match="cannot be read"):
        Key.read(tmp_path / "none")


def test_a_target_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match="file"):
        Catalog(Vault(open_target(str(tmp_path / "file")))).announce("create")
    for url in ("", "nosuch://place"):
        with pytest.raises(UsageError):
            open_target(url)


def test_an_empty_target_has_no_backup(tmp_path: Path) -> None:
    vault = Vault(open_target(str(tmp_path / "none")))
    assert list_backups(vault) == ([], [])
    assert verify_target(vault).ok
    assert prune(vault, Keep(last=1)).kept == []
    assert prune(vault, Keep(last=1), dry_run=True).deleted == []


def test_keep_chooses_the_last_and_the_last_of_days_and_weeks() -> None:
    newest = datetime(2026, 11, 30, 12, tzinfo=UTC)  # a Monday
    made = {f"b{h:04}": newest - timedelta(hours=h) for h in range(0, 24 * 30, 6)}
    assert Keep.parse("2").chosen(made) == {"b0000", "b0006"}
    assert Keep.parse("daily=3").chosen(made) == {"b0000", "b0018", "b0042"}
    weekly = Keep.parse("weekly=2").chosen(made)
    assert weekly == {"b0000", "b0018"}
    assert Keep.parse("last=1, daily=2").chosen(made) == {"b0000", "b0018"}
    for text in ("", "0", "all", "hourly=3", "last=-1", "daily=0"):
        with pytest.raises(UsageError, match="keep"):
            Keep.parse(text)
