from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ragstore.errors import LimitExceededError, UnreadableError, UnsupportedTypeError, UsageError
from ragstore.model.document import MAX_DOCUMENT_ID_BYTES, SourceItem
from ragstore.sources import Bounds, Listing, Unlistable, read_path, walk
from ragstore.sources.bounds import LEADS_OUT
from ragstore.sources.listing import PASSED_OVER_LINK

MIB = 1024 * 1024


def a_file(path: Path, text: str = "words") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(*paths: Path, max_bytes: int = MIB) -> list[str]:
    return [Path(entry.document_id).name for entry in walk(paths, max_bytes=max_bytes)]


def the_only(listing: Listing) -> SourceItem | Unlistable:
    (entry,) = listing
    return entry


def the_unlistable(listing: Listing) -> Unlistable:
    entry = the_only(listing)
    assert isinstance(entry, Unlistable)
    return entry


def test_an_item_tells_what_a_stat_tells(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.md", "four")
    os.utime(file, ns=(1, 1_700_000_000_123_456_789))
    changed = file.stat().st_ctime_ns
    item = SourceItem(str(file), str(file), 4, 1_700_000_000_123_456_789, ctime_ns=changed)
    assert the_only(walk([tmp_path], max_bytes=MIB)) == item


def test_a_folder_lists_its_files_by_name_and_then_its_subfolders(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "c.md", "a/b/x.csv", "B/y.json"):
        a_file(tmp_path / name)
    assert names(tmp_path) == ["b.txt", "c.md", "y.json", "z.md", "x.csv"]


def test_hidden_entries_and_unknown_types_are_passed_over_by_name(tmp_path: Path) -> None:
    for name in (".hidden.txt", ".git/config.txt", "image.png", "data", "kept.TXT"):
        a_file(tmp_path / name)
    listing = walk([tmp_path], max_bytes=MIB)
    assert [Path(entry.document_id).name for entry in listing] == ["kept.TXT"]
    assert listing.passed_over.as_dict() == {
        "hidden": {"count": 2, "examples": [str(tmp_path / ".git"), str(tmp_path / ".hidden.txt")]},
        "no type": {"count": 1, "examples": [str(tmp_path / "data")]},
        "type .png": {"count": 1, "examples": [str(tmp_path / "image.png")]},
    }
    assert listing.complete


def test_a_path_that_does_not_exist_is_refused_before_anything_is_listed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.txt"):
        walk([a_file(tmp_path / "a.txt"), tmp_path / "nowhere.txt"], max_bytes=MIB)


def test_an_empty_path_does_not_mean_the_working_folder() -> None:
    with pytest.raises(UsageError):
        walk([""], max_bytes=MIB)


def test_a_relative_path_is_made_absolute_and_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = a_file(tmp_path / "sub" / "a.txt")
    monkeypatch.chdir(tmp_path)
    assert the_only(walk(["./sub/../sub"], max_bytes=MIB)).document_id == str(file)


def test_a_named_file_of_unknown_type_comes_back_as_unlistable(tmp_path: Path) -> None:
    entry = the_unlistable(walk([a_file(tmp_path / "image.png")], max_bytes=MIB))
    assert isinstance(entry.error, UnsupportedTypeError)
    assert ".png" in entry.error.message
    assert ".md" in entry.error.hint


def test_overlapping_paths_list_each_file_once(tmp_path: Path) -> None:
    a_file(tmp_path / "in" / "a.txt")
    a_file(tmp_path / "in" / "b.txt")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    inner = tmp_path / "in"
    assert names(inner / "a.txt", inner, tmp_path, inner / "a.txt", inner) == ["a.txt", "b.txt"]
    assert names(tmp_path, inner / "b.txt") == ["b.txt", "a.txt"]
    assert names(tmp_path / "alias" / "a.txt", inner) == ["a.txt", "b.txt"]


def a_folder_of_links(tmp_path: Path) -> Path:
    """With a link to a file, a link to a folder, and a file of its own."""
    a_file(tmp_path / "outside" / "far.txt")
    root = tmp_path / "root"
    a_file(root / "z" / "near.txt")
    (root / "link.txt").symlink_to(tmp_path / "outside" / "far.txt")
    (root / "a_link").symlink_to(tmp_path / "outside")
    return root


def test_links_out_of_the_folder_are_followed_where_that_is_asked_for(tmp_path: Path) -> None:
    root = a_folder_of_links(tmp_path)
    listing = walk([root], max_bytes=MIB, bounds=Bounds.of([root], follow_links=True))
    assert [Path(entry.document_id).name for entry in listing] == ["link.txt", "near.txt", "far.txt"]
    assert names(root, tmp_path / "outside") == ["link.txt", "near.txt", "far.txt"], "into another named folder"


def test_links_out_of_the_folder_are_kept_out_by_name(tmp_path: Path) -> None:
    root = a_folder_of_links(tmp_path)
    (root / "dead.txt").symlink_to(tmp_path / "outside" / "nothing.txt")
    listing = walk([root], max_bytes=MIB)
    assert [Path(entry.document_id).name for entry in listing] == ["near.txt"]
    named = [str(root / name) for name in ("a_link", "dead.txt", "link.txt")]
    assert listing.passed_over.as_dict() == {PASSED_OVER_LINK: {"count": 3, "examples": named}}
    assert LEADS_OUT in PASSED_OVER_LINK and "--follow-links" in PASSED_OVER_LINK
    assert listing.complete


def test_links_that_stay_in_the_folder_are_followed(tmp_path: Path) -> None:
    file = a_file(tmp_path / "z" / ".data" / "a.txt")
    (tmp_path / "absolute.txt").symlink_to(file)
    (tmp_path / "relative.txt").symlink_to("z/../z/.data/a.txt")
    (tmp_path / "folder").symlink_to("z/.data")
    assert names(tmp_path) == ["absolute.txt", "relative.txt", "a.txt"]


def test_a_named_folder_may_be_a_link_and_a_named_file_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    root = a_folder_of_links(tmp_path)
    assert names(root / "a_link") == ["far.txt"]
    listing = walk([root / "link.txt", root / "z" / "near.txt"], max_bytes=MIB)
    assert [Path(entry.document_id).name for entry in listing] == ["near.txt"]
    assert listing.passed_over.examples == {PASSED_OVER_LINK: [str(root / "link.txt")]}


@pytest.mark.parametrize("path", ["/proc", "/proc/self", "/sys", "/dev", "/dev/stdin"])
def test_places_of_the_system_are_refused_even_when_they_are_named(path: str) -> None:
    with pytest.raises(UsageError, match="never read"):
        walk([path], max_bytes=MIB, bounds=Bounds.of([path], follow_links=True))


def test_a_place_that_is_never_read_is_kept_out_of_a_folder_around_it(tmp_path: Path) -> None:
    a_file(tmp_path / "home" / "secrets.json", "{}")
    a_file(tmp_path / "docs" / "a.txt")
    (tmp_path / "docs" / "secrets.json").symlink_to(tmp_path / "home" / "secrets.json")
    bounds = Bounds.of([tmp_path], never=[tmp_path / "home"], follow_links=True)
    listing = walk([tmp_path], max_bytes=MIB, bounds=bounds)
    assert [Path(entry.document_id).name for entry in listing] == ["a.txt"]
    (reason,) = listing.passed_over.counts
    assert reason == f"lies in {tmp_path / 'home'}, which is never read"
    assert {Path(name).name for name in listing.passed_over.examples[reason]} == {"secrets.json", "home"}
    with pytest.raises(UsageError, match="never read"):
        walk([tmp_path / "home"], max_bytes=MIB, bounds=bounds)


def test_a_loop_of_links_ends_and_real_folders_win_over_links(tmp_path: Path) -> None:
    a_file(tmp_path / "b" / "c" / "a.txt")
    (tmp_path / "b" / "c" / "up").symlink_to(tmp_path)
    (tmp_path / "aa").symlink_to(tmp_path / "b")
    (entry,) = walk([tmp_path], max_bytes=MIB)
    assert entry.document_id == str(tmp_path / "b" / "c" / "a.txt")


@pytest.mark.parametrize("target", ["nowhere.txt", "self.txt"])
def test_a_link_that_leads_nowhere_is_unlistable(tmp_path: Path, target: str) -> None:
    link = tmp_path / "self.txt"
    link.symlink_to(tmp_path / target)
    for root in (tmp_path, link):
        entry = the_unlistable(walk([root], max_bytes=MIB))
        assert isinstance(entry.error, UnreadableError)
        assert entry.document_id == str(link)


def test_a_pipe_and_a_socket_are_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.txt"))
        entries = list(walk([tmp_path], max_bytes=MIB))
    messages = [entry.error.message for entry in entries if isinstance(entry, Unlistable)]
    assert [message.rsplit(" is ")[1] for message in messages] == ["a pipe", "a socket"]
    assert the_unlistable(walk([tmp_path / "pipe.txt"], max_bytes=MIB)).error.code == "content.unsupported_type"


def test_a_file_that_is_too_large_names_the_option(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.txt", "12345")
    assert isinstance(the_only(walk([file], max_bytes=5)), SourceItem)
    error = the_unlistable(walk([file], max_bytes=4)).error
    assert isinstance(error, LimitExceededError)
    assert "RAGSTORE_MAX_FILE_MB" in error.hint


def test_a_name_that_is_no_utf8_is_listed_and_can_be_opened(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    try:
        Path(os.fsdecode(raw)).write_text("words")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    entry = the_only(walk([tmp_path], max_bytes=MIB))
    assert isinstance(entry, SourceItem)
    assert entry.document_id.startswith(f"{tmp_path}/caf\\xe9.txt~")
    assert read_path(entry.source_uri).read_text() == "words"


def test_a_path_longer_than_an_id_may_be_is_unlistable_under_a_shorter_one(tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < MAX_DOCUMENT_ID_BYTES:
        deep /= "d" * 200
    a_file(deep / "a.txt")
    a_file(deep / "b.txt")
    entries = list(walk([tmp_path], max_bytes=MIB))
    assert [type(entry) for entry in entries] == [Unlistable, Unlistable]
    assert len({entry.document_id for entry in entries}) == 2
    assert all(len(entry.document_id.encode()) <= MAX_DOCUMENT_ID_BYTES for entry in entries)


def test_a_folder_that_may_not_be_read_makes_the_listing_incomplete(tmp_path: Path) -> None:
    a_file(tmp_path / "open" / "a.txt")
    a_file(tmp_path / "shut" / "b.txt")
    (tmp_path / "shut").chmod(0)
    # The folders of pytest are private to its user, and root is only stopped where it is another one.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    script = (
        "import os, sys\n"
        "from ragstore.sources import walk\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "listing = walk([sys.argv[1]], max_bytes=10)\n"
        "print([type(e).__name__ + (' folder' if getattr(e, 'is_folder', False) else '') for e in listing])\n"
        "print(listing.complete)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    (tmp_path / "shut").chmod(0o755)
    assert done.stdout.splitlines() == ["['SourceItem', 'Unlistable folder']", "False"], done.stderr


def test_a_named_path_that_may_not_even_be_looked_at_makes_the_listing_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    root = a_file(tmp_path / "a.txt").parent
    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "lstat", refuse)
    listing = walk([root], max_bytes=MIB)
    assert the_unlistable(listing).document_id == str(root)
    assert not listing.complete
