from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ragstore
from ragstore.cli.ingest import noted_lines
from ragstore.model.notes import LOSSES, NOTES, kinds, losses, sentences
from ragstore.model.report import MAX_NOTED, NotedDocuments
from ragstore.sources.raw import clean_text
from ragstore.sources.readers import read

SOURCES = Path(ragstore.__file__).parent / "sources"


def note_names(tree: ast.AST) -> Iterator[str]:
    """Names that are written into something called ``notes``, or returned beside a text as its notes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_notes(node.value):
            yield from constants(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_notes(node.func.value):
            yield from (name for each in node.args[:1] for name in (*constants(each), *keys(each)))
        elif (
            (isinstance(node, ast.keyword) and node.arg == "notes")
            or (isinstance(node, ast.Assign) and any(map(is_notes, node.targets)))
            or (isinstance(node, ast.AnnAssign) and is_notes(node.target) and node.value)
        ):
            yield from keys(node.value)
        elif isinstance(node, ast.FunctionDef) and "dict[str, int | str]" in ast.unparse(node.returns or ast.Tuple([])):
            yield from (name for each in ast.walk(node) if isinstance(each, ast.Return) for name in keys(each))


def is_notes(node: ast.AST) -> bool:
    return ast.unparse(node).split(".")[-1].removeprefix("_") == "notes"


def constants(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def keys(node: ast.AST | None) -> Iterator[str]:
    for each in ast.walk(node) if node else ():
        if isinstance(each, ast.Dict):
            yield from (name for key in each.keys if key for name in constants(key))


def test_each_note_that_a_reader_writes_has_a_sentence() -> None:
    used = {name for path in SOURCES.glob("*.py") for name in note_names(ast.parse(path.read_text()))}
    assert {"decoded_as", "invalid_utf8"} <= used, "the search for names finds none any more"
    assert sorted(used - NOTES.keys()) == []


def test_what_the_cleaning_counts_has_a_sentence() -> None:
    _, found = clean_text("a\0b\x01c\ufeffd\ud800e")
    assert found.keys() == {"nul_bytes", "control_chars", "bom", "lone_surrogates"}
    assert found.keys() <= NOTES.keys()


def test_the_search_finds_every_way_to_write_a_note() -> None:
    ways = """
notes = {"a": 1}
notes["b"] = 2
self._notes.setdefault("c", 0)
notes.update({"d": 1})
RawText([], notes={"e": 1, **{"f": 2}})
notes: dict[str, int | str] = {"g": 1}
def decode(data: bytes) -> tuple[str, dict[str, int | str]]:
    return "", {"h": 1}
"""
    assert sorted(note_names(ast.parse(ways))) == list("abcdefgh")


@pytest.mark.parametrize("name", sorted(NOTES))
def test_a_sentence_has_a_place_for_its_value_or_needs_none(name: str) -> None:
    assert NOTES[name].count("{}") <= 1
    assert name in NOTES[name].replace(" ", "_") or "{}" in NOTES[name] or name == "empty"


def test_one_thing_has_one_name() -> None:
    assert len(set(NOTES.values())) == len(NOTES)


def test_losses_are_notes() -> None:
    assert NOTES.keys() >= LOSSES
    assert losses({"bom": 1, "invalid_utf8": 2}) == {"invalid_utf8": 2}


def test_a_text_in_the_chosen_encoding_is_no_guess() -> None:
    assert losses({"decoded_as": "shift_jis"}) == {"decoded_as": "shift_jis"}
    assert losses({"decoded_as": "shift_jis"}, chosen_encoding="shift_jis") == {}


def test_sentences_count_in_the_singular_and_the_plural() -> None:
    assert sentences({"nul_bytes": 1, "control_chars": 1}) == ["1 control character removed", "1 NUL byte removed"]
    assert sentences({"nul_bytes": 12_345}) == ["12,345 NUL bytes removed"]
    assert sentences({"decoded_as": "shift_jis"}) == ["decoded as shift_jis"]
    assert sentences({"of_a_later_version": 2}) == ["2 of a later version"]
    assert kinds({"nul_bytes": 7, "decoded_as": "euc_kr"}) == ["decoded as euc_kr", "NUL bytes removed"]


def test_a_report_counts_documents_by_note_and_names_them_on_request() -> None:
    noted = NotedDocuments()
    noted.add("/a.txt", {"decoded_as": "shift_jis"})
    noted.add("/b.txt", {"decoded_as": "shift_jis", "nul_bytes": 4})
    noted.add("/c.txt", {})
    assert noted_lines(noted) == ["2 documents with notes: decoded as shift_jis 2, NUL bytes removed 1"]
    assert noted_lines(noted, verbose=True)[1:] == [
        "  /a.txt: decoded as shift_jis",
        "  /b.txt: decoded as shift_jis, 4 NUL bytes removed",
    ]
    assert noted_lines(NotedDocuments()) == []


def test_a_report_names_a_bounded_number_of_documents() -> None:
    noted, more = NotedDocuments(), NotedDocuments()
    for i in range(MAX_NOTED):
        noted.add(f"/{i}", {"bom": 1})
        more.add(f"/more/{i}", {"bom": 1})
    noted.merge(more)
    assert (noted.n_documents, len(noted.documents), noted.counts) == (
        2 * MAX_NOTED,
        MAX_NOTED,
        {"byte order marks removed from the text": 2 * MAX_NOTED},
    )
    assert noted_lines(noted, verbose=True)[-1] == "  and 1,000 more; 'ragstore documents' shows them"


def test_a_reading_says_what_it_replaced() -> None:
    assert sentences(read(b"caf\xc3\xa9 and a longer text \xff caf\xc3\xa9\0", "a.txt").notes)
