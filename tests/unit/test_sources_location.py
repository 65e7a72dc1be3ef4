from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from ragstore.model.document import MAX_DOCUMENT_ID_BYTES
from ragstore.sources.bounds import document_id_of, is_too_long, read_path, shortened, source_uri_of

paths = (
    st.binary(min_size=1, max_size=60)
    .filter(lambda raw: b"\0" not in raw)
    .map(lambda raw: os.path.abspath(os.fsdecode(b"/a/" + raw)))
)


@given(paths)
def test_a_source_uri_opens_the_file_it_was_made_for(path: str) -> None:
    uri = source_uri_of(path)
    uri.encode("utf-8")
    assert os.fspath(read_path(uri)) == path


@given(st.lists(paths, unique=True, min_size=2, max_size=8))
def test_different_files_have_different_ids_that_are_utf8(names: list[str]) -> None:
    ids = [document_id_of(name) for name in names]
    assert len({id_.encode("utf-8") for id_ in ids}) == len(names)


def test_an_undecodable_name_is_escaped_and_differs_from_the_name_that_is_really_called_so() -> None:
    undecodable, literal = os.fsdecode(b"/a/\xff.txt"), r"/a/\xff.txt"
    assert document_id_of(undecodable).startswith(r"/a/\xff.txt~")
    assert document_id_of(literal) == literal


def test_a_shortened_id_fits_and_stays_unique() -> None:
    long = ["/" + "ä" * 600 + end for end in ("a", "b")]
    assert all(is_too_long(id_) for id_ in long)
    short = [shortened(id_) for id_ in long]
    assert all(len(id_.encode()) <= MAX_DOCUMENT_ID_BYTES for id_ in short)
    assert len(set(short)) == 2


def test_an_id_of_exactly_the_limit_is_not_too_long() -> None:
    assert not is_too_long("a" * MAX_DOCUMENT_ID_BYTES)
    assert is_too_long("a" * (MAX_DOCUMENT_ID_BYTES + 1))
