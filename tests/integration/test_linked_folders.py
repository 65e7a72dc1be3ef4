"""A folder that is named by a link does not come in twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragstore.app import Ragstore


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a link to a folder in it."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "a.md").write_text("Words of a.\n")
    (tmp_path / "d" / "sub" / "c.md").write_text("Words of c.\n")
    (tmp_path / "d" / "alias").symlink_to("sub")
    return tmp_path / "d"


def names(rs: Ragstore, folder: Path) -> list[str]:
    return [str(Path(document.document_id).relative_to(folder)) for document in rs.documents("docs")]


def test_a_link_to_a_folder_that_is_known_makes_no_second_copy(rs: Ragstore, folder: Path) -> None:
    rs.ingest(folder, collection="docs")
    for verb in (rs.ingest, rs.sync):
        assert verb(folder / "alias", collection="docs").unchanged == 1
    assert names(rs, folder) == ["a.md", "sub/c.md"]
    (folder / "sub" / "c.md").unlink()
    assert rs.sync(folder / "alias", collection="docs", allow_mass_delete=True).deleted == 1


def test_a_folder_that_was_known_by_a_link_takes_its_real_name(rs: Ragstore, folder: Path) -> None:
    rs.ingest(folder / "alias", collection="docs")
    assert names(rs, folder) == ["alias/c.md"]
    report = rs.ingest(folder, collection="docs")
    assert (report.added, report.renamed, report.embedded) == (1, 1, 1)
    assert names(rs, folder) == ["a.md", "sub/c.md"]
    assert rs.ingest(folder / "alias", folder, collection="docs").unchanged == 2
    assert names(rs, folder) == ["a.md", "sub/c.md"]


def test_a_link_that_changes_with_each_release_stays_the_name(rs: Ragstore, tmp_path: Path) -> None:
    current = tmp_path / "current"
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "a.md").write_text(f"Words of release {release}.\n")
        current.unlink(missing_ok=True)
        current.symlink_to(release)
        rs.sync(current, collection="docs")
    assert names(rs, tmp_path) == ["current/a.md"]
    assert "release 2" in rs.query("release", collection="docs")[0].text


def test_a_link_to_a_file_beside_it_is_a_document_of_its_own(rs: Ragstore, folder: Path) -> None:
    (folder / "z.md").symlink_to("a.md")
    for _ in range(2):
        rs.sync(folder, collection="docs")
    assert names(rs, folder) == ["a.md", "sub/c.md", "z.md"]
