"""What is taken from folders, and why the rest is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ragstore.errors import UsageError
from ragstore.model.selected import LEFT_OUT_FILES, LEFT_OUT_FOLDERS
from ragstore.sources import Unlistable, walk
from ragstore.sources.bounds import source_uri_of
from ragstore.sources.presence import Roots
from ragstore.sources.selection import BY_DEFAULT, EXCLUDED, HIDDEN, IGNORED, NOT_INCLUDED, Selection

MIB = 1024 * 1024


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("words\n")


def taken(folder: Path, selection: Selection | None = None) -> list[str]:
    listing = walk([folder], max_bytes=MIB, selection=selection or Selection())
    return sorted(os.path.relpath(entry.document_id, folder) for entry in listing)


def passed_over(folder: Path, selection: Selection | None = None) -> dict[str, int]:
    listing = walk([folder], max_bytes=MIB, selection=selection or Selection())
    list(listing)
    return listing.passed_over.counts


def left_out(folder: Path, name: str, selection: Selection | None = None) -> str | None:
    """What a sync says of a document that it read from there before."""
    return Roots([folder], None, selection or Selection()).left_out(source_uri_of(str(folder / name)))


@pytest.mark.parametrize("name", ["~$report.docx", "Thumbs.db.txt", "a.tmp", "b.part", "c.md~", "d.txt.swp"])
def test_files_of_programs_are_left_out_and_taken_where_that_is_asked_for(tmp_path: Path, name: str) -> None:
    files(tmp_path, "report.docx", name)
    by_default = name != "Thumbs.db.txt"
    assert passed_over(tmp_path) == ({BY_DEFAULT: 1} if by_default else {})
    assert left_out(tmp_path, name) == (BY_DEFAULT if by_default else None)
    assert BY_DEFAULT not in passed_over(tmp_path, Selection(defaults=False))
    assert left_out(tmp_path, name, Selection(defaults=False)) is None


@pytest.mark.parametrize("name", LEFT_OUT_FOLDERS)
def test_folders_of_programs_are_left_out_with_all_below(tmp_path: Path, name: str) -> None:
    files(tmp_path, "a.md", f"sub/{name}/below/b.md")
    assert taken(tmp_path) == ["a.md"]
    if name.startswith("."):
        assert left_out(tmp_path, f"sub/{name}/below/b.md") is None, "a hidden file can only have been named"
    else:
        assert left_out(tmp_path, f"sub/{name}/below/b.md") == BY_DEFAULT
        files(tmp_path, f"{name}.md")
        assert f"{name}.md" in taken(tmp_path)


def test_the_defaults_name_what_programs_leave_behind() -> None:
    assert {"~$*", ".~lock.*#", ".DS_Store", "Thumbs.db", "*.tmp", "*.part", "*.swp"} <= set(LEFT_OUT_FILES)


def test_an_exclude_leaves_out_files_and_folders(tmp_path: Path) -> None:
    files(tmp_path, "a.md", "b.txt", "old/c.md", "new/old/d.md", "new/e.md")
    selection = Selection.of(exclude=["*.txt", "/old/"])
    assert taken(tmp_path, selection) == ["a.md", "new/e.md", "new/old/d.md"]
    assert passed_over(tmp_path, selection) == {EXCLUDED: 2}
    assert left_out(tmp_path, "old/c.md", selection) == EXCLUDED
    assert left_out(tmp_path, "new/old/d.md", selection) is None


def test_an_include_takes_only_what_matches_and_nothing_that_is_left_out(tmp_path: Path) -> None:
    files(tmp_path, "a.md", "b.txt", "sub/c.md", "sub/d.txt", "node_modules/e.md", ".hidden/f.md")
    selection = Selection.of(["*.md"])
    assert taken(tmp_path, selection) == ["a.md", "sub/c.md"]
    assert passed_over(tmp_path, selection) == {NOT_INCLUDED: 2, BY_DEFAULT: 1, HIDDEN: 1}
    assert taken(tmp_path, Selection.of(["sub/"])) == ["sub/c.md", "sub/d.txt"]
    assert taken(tmp_path, Selection.of(["*.md"], ["sub/"])) == ["a.md"]
    assert left_out(tmp_path, "b.txt", selection) == NOT_INCLUDED
    assert left_out(tmp_path, "sub/c.md", selection) is None


def test_patterns_of_an_ignore_file_apply_to_its_folder_and_below(tmp_path: Path) -> None:
    files(tmp_path, "a.md", "draft.md", "sub/draft.md", "sub/deep/draft.md", "sub/deep/b.md", "other/draft.md")
    (tmp_path / "sub" / ".ragstoreignore").write_text("# what is not done yet\ndraft.md\n/deep/b.md\n")
    assert taken(tmp_path) == ["a.md", "draft.md", "other/draft.md"]
    assert passed_over(tmp_path) == {IGNORED: 3}
    assert left_out(tmp_path, "sub/deep/draft.md") == IGNORED
    assert left_out(tmp_path, "draft.md") is None


def test_the_nearest_ignore_file_has_the_last_word_and_an_exclude_has_it_over_all(tmp_path: Path) -> None:
    files(tmp_path, "a.log.md", "sub/b.log.md", "sub/keep.log.md")
    (tmp_path / ".ragstoreignore").write_text("*.log.md\n")
    (tmp_path / "sub" / ".ragstoreignore").write_text("!keep.log.md\n")
    assert taken(tmp_path) == ["sub/keep.log.md"]
    assert taken(tmp_path, Selection.of(exclude=["keep.*"])) == []
    assert taken(tmp_path, Selection.of(exclude=["!a.log.md"])) == ["a.log.md", "sub/keep.log.md"]


def test_an_ignore_file_takes_back_in_what_is_hidden_or_left_out_by_default(tmp_path: Path) -> None:
    files(tmp_path, ".github/a.md", "node_modules/b.md", "c.md")
    (tmp_path / ".ragstoreignore").write_text("!.github/\n!node_modules/\n")
    assert taken(tmp_path) == [".github/a.md", "c.md", "node_modules/b.md"]


def test_an_ignore_file_of_windows_is_read_like_any_other(tmp_path: Path) -> None:
    files(tmp_path, "a.md", "b.md")
    (tmp_path / ".ragstoreignore").write_bytes(b"\xef\xbb\xbfa.md\r\n\r\n")
    assert taken(tmp_path) == ["b.md"]


@pytest.mark.parametrize("content", [b"ok\n!\n", b"\xff\xfea\0", b"a\\\n"])
def test_an_ignore_file_that_cannot_be_understood_takes_and_loses_nothing(tmp_path: Path, content: bytes) -> None:
    files(tmp_path, "above.md", "sub/a.md")
    (tmp_path / "sub" / ".ragstoreignore").write_bytes(content)
    listing = walk([tmp_path], max_bytes=MIB)
    entries = list(listing)
    (refused,) = [entry for entry in entries if isinstance(entry, Unlistable)]
    assert len(entries) == 2 and not listing.complete
    assert ".ragstoreignore" in refused.error.message and refused.is_folder and refused.error.hint
    assert left_out(tmp_path, "sub/a.md") is None


def test_an_ignore_file_that_may_not_be_read_takes_and_loses_nothing(tmp_path: Path) -> None:
    files(tmp_path, "docs/a.md")
    (tmp_path / "docs" / ".ragstoreignore").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("a.md\n")
    listing = walk([tmp_path / "docs"], max_bytes=MIB)
    assert [isinstance(entry, Unlistable) for entry in listing] == [True]
    assert not listing.complete
    assert left_out(tmp_path / "docs", "a.md") is None


def test_a_named_file_is_taken_whatever_the_patterns_say(tmp_path: Path) -> None:
    files(tmp_path, "~$a.docx", "b.md")
    (tmp_path / ".ragstoreignore").write_text("*\n")
    paths = [tmp_path / "~$a.docx", tmp_path / "b.md", tmp_path]
    selection = Selection.of(["*.csv"], ["b.md"])
    listing = walk(paths, max_bytes=MIB, selection=selection)
    assert [Path(entry.document_id).name for entry in listing] == ["~$a.docx", "b.md"]
    assert Roots(paths, None, selection).left_out(str(tmp_path / "b.md")) is None


def test_a_file_that_one_of_several_folders_takes_is_not_left_out(tmp_path: Path) -> None:
    files(tmp_path, "node_modules/guide/a.md")
    below = tmp_path / "node_modules" / "guide"
    assert left_out(tmp_path, "node_modules/guide/a.md") == BY_DEFAULT
    assert Roots([tmp_path, below]).left_out(str(below / "a.md")) is None


def test_a_pattern_that_is_none_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="--exclude"):
        Selection.of(exclude=["a", "!"])
    with pytest.raises(UsageError, match="not a list"):
        Selection.of(include="*.md")


def test_patterns_of_many_folders_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragstore.sources.selection._MAX_REMEMBERED", 2)
    files(tmp_path, *(f"{i}/{j}/a.md" for i in range(4) for j in range(2)))
    (tmp_path / "3").joinpath(".ragstoreignore").write_text("a.md\n")
    roots = Roots([tmp_path])
    found = {f"{i}/{j}": roots.left_out(str(tmp_path / f"{i}/{j}/a.md")) for i in range(4) for j in range(2)}
    assert {name for name, reason in found.items() if reason} == {"3/0", "3/1"}
