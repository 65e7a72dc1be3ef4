"""``ragstore sync`` as a person uses it."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import CommandLine
from tests.support.stores import Stores


def test_a_sync_makes_the_collection_equal_to_the_folder(
    command: CommandLine, stores: Stores, collection: str, manuals: Path
) -> None:
    first = command("sync", "manuals", "--json").json
    assert (first["added"], first["deleted"]) == (4, 0)
    (manuals / "valve.txt").unlink()
    (manuals / "pump.md").rename(manuals / "pump-2.md")
    would = command("sync", "manuals", "--dry-run")
    assert would.stdout.startswith("would be: 1 renamed, 1 deleted, 2 unchanged")
    assert stores.n_documents(collection) == 4
    done = command("sync", "manuals")
    assert done.stdout.startswith("1 renamed, 1 deleted, 2 unchanged")
    assert done.stderr == ""
    assert stores.n_documents(collection) == 3
    stores.assert_agree(collection)
    shown = [Path(d["document_id"]).name for d in command("documents", "--json").json["documents"]]
    assert sorted(shown) == ["descaling.html", "parts.csv", "pump-2.md"]


def test_a_folder_that_comes_back_empty_is_refused_with_a_way_on(
    command: CommandLine, stores: Stores, collection: str, manuals: Path
) -> None:
    command("sync", "manuals")
    gone = sorted(entry["document_id"] for entry in command("documents", "--json").json["documents"])
    manuals.rename(manuals.with_name("elsewhere"))
    manuals.mkdir()
    refused = command("sync", "manuals", status=4)
    assert refused.stdout == ""
    assert str(manuals) in refused.error
    assert "--allow-mass-delete" in refused.hint
    document = command("sync", "manuals", "--json", status=4).json
    assert document["error"]["code"] == "refused.mass_deletion"
    assert (sorted(document["lost_documents"]), document["report"]["deleted_documents"]) == (gone, [])
    looked = command("sync", "manuals", "--dry-run", "--json", status=4)
    assert (looked.json["deleted"], sorted(looked.json["deleted_documents"])) == (4, gone)
    assert looked.json["refused"]["code"] == "refused.mass_deletion"
    assert "would be refused: " in looked.stderr
    assert [f"gone: {path}" for path in gone] == [line for line in refused.stderr.splitlines() if line[:5] == "gone:"]
    allowed = command("sync", "manuals", "--dry-run", "--allow-mass-delete")
    assert "refused" not in allowed.stderr
    assert [f"would be deleted: {path}" for path in gone] == allowed.stdout.splitlines()[1:]
    assert stores.n_documents(collection) == 4
    assert command("sync", "manuals", "--allow-mass-delete", "--json").json["deleted"] == 4
    assert stores.n_documents(collection) == 0


def test_a_path_that_is_gone_is_a_wrong_call(
    command: CommandLine, stores: Stores, collection: str, manuals: Path
) -> None:
    command("sync", "manuals")
    (manuals / "valve.txt").unlink()
    refused = command("sync", "manuals", "no-such-folder", "--allow-mass-delete", status=6)
    assert "no-such-folder" in refused.error
    assert stores.n_documents(collection) == 4


def test_what_cannot_be_read_is_told_and_the_rest_is_synced(command: CommandLine, manuals: Path) -> None:
    command("sync", "manuals")
    (manuals / "valve.txt").unlink()
    (manuals / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    done = command("sync", "manuals", status=3)
    assert done.stdout.startswith("1 deleted, 3 unchanged, 1 failed")
    assert "quarantined: " in done.stderr
    assert "failed" in command("sync", "manuals", "--dry-run", status=3).stdout
