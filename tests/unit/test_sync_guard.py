"""How many deletions a sync refuses, and which files it takes for lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ragstore.ingest.deletion import MissingSources, is_mass, refusal
from ragstore.sources import Bounds, walk
from ragstore.sources.bounds import source_uri_of
from ragstore.sources.listing import Listing
from ragstore.sources.presence import Roots


@pytest.mark.parametrize(
    ("n_deleted", "n_live", "refused"),
    [
        (0, 0, False),
        (1, 1, False),
        (10, 10, False),
        (10, 1_000, False),
        (11, 11, True),
        (11, 54, True),
        (11, 55, False),
        (12, 55, True),
        (20, 100, False),
        (21, 100, True),
        (200_000, 1_000_000, False),
        (200_001, 1_000_000, True),
    ],
)
def test_more_than_ten_and_more_than_a_fifth_are_refused(n_deleted: int, n_live: int, refused: bool) -> None:
    assert is_mass(n_deleted, n_live) is refused
    assert (refusal(MissingSources(n_live, n_deleted, {"/docs": n_deleted}), silent=set()) is not None) is refused


def test_a_refusal_says_how_many_and_how_to_go_on() -> None:
    error = refusal(MissingSources(40, 12, {"/docs": 12}), silent=set())
    assert error is not None
    assert "12 of 40" in error.message
    assert "--allow-mass-delete" in error.hint and "--dry-run" in error.hint
    assert (error.exit_status, error.facts) == (4, {"n_lost": 12, "n_live": 40})


def test_a_single_document_of_a_folder_that_shows_nothing_is_refused() -> None:
    error = refusal(MissingSources(1_000, 1, {"/docs": 1, "/other": 0}), silent={"/docs"})
    assert error is not None
    assert error.message.startswith("/docs ")
    assert refusal(MissingSources(1_000, 1, {"/docs": 1}), silent={"/never read from"}) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "below").mkdir(parents=True)
    return tmp_path / "docs"


def lost(folder: Path, path: Path | str) -> bool:
    return Roots([folder]).source_missing(source_uri_of(os.fspath(path)))


def test_what_is_there_is_not_lost_and_what_is_gone_is(folder: Path) -> None:
    (folder / "a.txt").touch()
    assert not lost(folder, folder / "a.txt")
    assert lost(folder, folder / "b.txt")
    assert lost(folder, folder / "no" / "such" / "folder" / "b.txt")


def test_what_stood_elsewhere_is_never_lost(folder: Path, tmp_path: Path) -> None:
    assert not lost(folder, tmp_path / "b.txt")
    assert not lost(folder, tmp_path / "docs2" / "b.txt")
    assert not lost(folder, "s3://bucket/docs/b.txt")
    assert not lost(folder, "b.txt")
    assert not lost(folder, folder)


def test_a_file_whose_place_a_folder_took_is_lost_and_so_is_one_below_a_file(folder: Path) -> None:
    (folder / "a.txt").mkdir()
    (folder / "b").touch()
    assert lost(folder, folder / "a.txt")
    assert lost(folder, folder / "b" / "c.txt")


def test_what_lies_behind_a_link_that_leads_nowhere_may_be_there_again_tomorrow(folder: Path, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    (drive / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(drive)
    roots, uri = Roots([folder], Bounds.of([folder], follow_links=True)), str(folder / "link" / "deep" / "a.txt")
    assert roots.source_missing(uri)
    drive.rename(tmp_path / "taken away")
    assert not roots.source_missing(uri)
    (folder / "link").unlink()
    assert roots.source_missing(uri)


def test_what_lies_behind_a_link_that_is_not_followed_is_unseen_and_not_lost(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "a.txt").symlink_to(tmp_path / "outside" / "a.txt")
    assert not lost(folder, folder / "link" / "gone.txt")
    assert not lost(folder, folder / "a.txt")
    (folder / "link").unlink()
    assert lost(folder, folder / "link" / "gone.txt")


def test_a_link_that_leads_nowhere_is_itself_there(folder: Path) -> None:
    (folder / "a.txt").symlink_to("nowhere")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "round").symlink_to("round")
    assert not lost(folder, folder / "a.txt")
    assert not lost(folder, folder / "loop.txt")
    assert not lost(folder, folder / "round" / "a.txt")


@pytest.mark.parametrize(
    "name", [b"caf\xe9.txt", "naïve 100%.txt".encode(), b"new\nline.txt", b"file:\\x.txt", b" .txt"]
)
def test_odd_names_are_found_and_missed_like_others(folder: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(folder), name)
    uri = source_uri_of(os.fsdecode(path))
    Path(os.fsdecode(path)).touch()
    assert not Roots([folder]).source_missing(uri)
    os.unlink(path)
    assert Roots([folder]).source_missing(uri)


def test_a_root_with_an_odd_name_knows_its_files(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"d\xe9p\xf4t")))
    root.mkdir()
    roots = Roots([root])
    (uri,) = roots.uris
    assert uri.startswith("file://")
    assert roots.source_missing(source_uri_of(os.fspath(root / "a.txt")))


def test_a_folder_is_silent_until_the_listing_shows_something_below_it(tmp_path: Path) -> None:
    for name in ("full", "empty", "unknown", "hidden", "nested/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full" / "a.txt").touch()
    (tmp_path / "unknown" / "a.xyz").touch()
    (tmp_path / "hidden" / ".a.txt").touch()
    (tmp_path / "nested" / "inner" / "a.txt").touch()
    paths = [tmp_path / n for n in ("full", "empty", "unknown", "hidden", "nested", "nested/inner")]
    roots = Roots(paths)
    assert len(roots.silent) == 6
    listing: Listing = walk(paths, max_bytes=1_000)
    assert len(list(roots.watching(listing))) == 2
    assert {Path(root).name for root in roots.silent} == {"empty", "unknown", "hidden"}


def test_a_folder_that_became_another_one_is_noticed(tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    roots = Roots([root])
    assert roots.replaced == []
    root.rename(tmp_path / "taken away")
    assert roots.replaced == [str(root)]
    root.mkdir()
    assert roots.replaced == [str(root)]


def test_a_named_file_makes_nothing_lost(folder: Path) -> None:
    (folder / "a.txt").touch()
    roots = Roots([folder / "a.txt"])
    assert roots.uris == []
    assert not roots.source_missing(str(folder / "b.txt"))
