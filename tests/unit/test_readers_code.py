from __future__ import annotations

import pytest

from ragstore.ingest.splitting import count_tokens, split
from ragstore.model.collection import Chunking
from ragstore.sources.readers import ReadText, read

PYTHON = '''"""Pumps."""

import os


# Opens it.
@cache
def open_valve(name):
    if name:
        x = 1
        return x
    return None


class Pump:
    """A pump."""

    speed = 3

    def start(self):
        """Start it."""
        for i in range(3):
            self.turn(i)

    async def stop(
        self, now: bool
    ) -> None:
        def later():
            return 1
        return later()


LAST = open_valve("x")
print(LAST)
print(LAST, os)
print("end")
'''


def outline(text: ReadText) -> list[tuple[str, ...]]:
    return text.headings


def part(text: ReadText, *headings: str) -> str:
    i = text.headings.index(headings)
    return text.text[text.part_starts[i] : [*text.part_starts, len(text.text)][i + 1]]


def test_code_is_whole_and_lies_under_its_classes_and_functions() -> None:
    text = read(PYTHON.encode(), "pump.py")
    assert text.text == PYTHON
    assert outline(text) == [(), ("open_valve",), ("Pump",), ("Pump", "start"), ("Pump", "stop"), ()]
    assert part(text, "open_valve").startswith("# Opens it.\n@cache\ndef open_valve(name):\n    if name:")
    assert "def later" in part(text, "Pump", "stop")


def test_chunks_keep_their_indentation_and_whole_lines() -> None:
    body = "".join(f"        total += self.values[{i}] * factor\n" for i in range(100))
    source = f"class Sum:\n    def add(self, factor):\n        total = 0\n{body}        return total\n"
    chunks = split(read(source.encode(), "a.py"), Chunking(128, 16))
    assert len(chunks) > 5
    lines = set(source.splitlines())
    for chunk in chunks:
        assert source[chunk.start_char : chunk.end_char] == chunk.text[chunk.n_repeated :]
        assert set(chunk.text[chunk.n_repeated :].splitlines()) <= lines
        assert chunk.headings[0] == "Sum"
    assert chunks[3].headings == ("Sum", "add")


LANGUAGES = {
    "a.js": (
        ("import x from 'y';\n\nexport class Pump extends Base {\n  start(speed) {\n    this.x = 1;\n    if (speed) {\n      go();\n    }\n  }\n}\n\n"
        "const open = async (name) => {\n  a();\n  b();\n  return c;\n};\n\nfunction* all() {\n  yield 1;\n  yield 2;\n  yield 3;\n}\n"),
        [("Pump",), ("Pump", "start"), ("open",), ("all",)],
    ),
    "a.go": (
        ("package main\n\nimport \"fmt\"\n\ntype Pump struct {\n\tSpeed int\n\tName string\n}\n\n// Start it.\nfunc (p *Pump) Start(n int) error {\n"
        "\tfmt.Println(n)\n\treturn nil\n}\n\nfunc main() {\n\tp := Pump{}\n\tp.Start(1)\n}\n"),
        [("Pump",), ("Pump.Start",), ("main",)],
    ),
    "a.rs": (
        ("use std::io;\n\npub struct Pump {\n    speed: u32,\n    name: String,\n}\n\nimpl<T> Motor for Pump where T: X {\n    pub fn start(&self) -> u32 {\n"
        "        let x = 1;\n        x\n    }\n}\n"),
        [("Pump",), ("Motor for Pump",), ("Motor for Pump", "start")],
    ),
    "a.c": (
        ("#include <stdio.h>\n\nstatic int\nopen_valve(int a,\n           char *b)\n{\n    if (a) {\n        return 1;\n    }\n    return 0;\n}\n\n"
        "struct pump {\n    int a;\n    int b;\n};\n\nint main(void)\n{\n    open_valve(1, 0);\n    while (1) {\n    }\n}\n"),
        [("open_valve",), ("pump",), ("main",)],
    ),
    "a.java": (
        ("package a.b;\n\n/**\n * A pump.\n */\n@Service\npublic final class Pump<T> implements Motor {\n    private int x = 1;\n\n"
        "    @Override\n    public List<T> start(int a) throws Exception {\n        if (a > 1) {\n            return null;\n        }\n        return x;\n    }\n}\n"),
        [("Pump<T>",), ("Pump<T>", "start")],
    ),
    "a.rb": (
        "module Water\n  class Pump\n    def start(x)\n      a = 1\n      b = 2\n    end\n  end\nend\n",
        [("Water",), ("Water", "Pump"), ("Water", "Pump", "start")],
    ),
    "a.sh": ("set -e\n\nopen_valve() {\n  echo 1\n  echo 2\n}\n\nopen_valve a\n", [("open_valve",)]),
    "a.sql": (
        "CREATE TABLE IF NOT EXISTS pump (\n  id int,\n  name text,\n  speed int\n);\n\ncreate or replace view fast as\nselect *\nfrom pump\nwhere speed > 3;\n",
        [("table pump",), ("view fast",)],
    ),
    "a.kt": ("class Pump(val x: Int) {\n    fun start(y: Int): Int {\n        val a = 1\n        return a\n    }\n}\n", [("Pump",), ("Pump", "start")]),
    "a.r": ("open <- function(x) {\n  a <- 1\n  b <- 2\n  a + b\n}\n", [("open",)]),
    "a.php": ("<?php\nclass Pump {\n    public function start($x) {\n        $a = 1;\n        return $a;\n    }\n}\n", [("Pump",), ("Pump", "start")]),
    "a.swift": ("struct Pump {\n    func start(at x: Int) -> Int {\n        let a = 1\n        return a\n    }\n}\n", [("Pump",), ("Pump", "start")]),
    "a.ps1": ("function Start-Pump {\n  param($x)\n  $a = 1\n  $a\n}\n", [("Start-Pump",)]),
    "a.cpp": (
        "namespace water {\n\nint Pump::start(int a) const {\n    int b = a;\n    return b;\n}\n\n}\n",
        [("Pump::start",)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGES)
def test_definitions_are_found_in_many_languages(name: str) -> None:
    source, expected = LANGUAGES[name]
    text = read(source.encode(), name)
    assert text.text == source
    assert [headings for headings in text.headings if headings] == expected


def test_a_small_definition_lies_with_what_is_around_it() -> None:
    source = "class A:\n    def x(self):\n        return 1\n\n    def y(self):\n        return 2\n"
    assert outline(read(source.encode(), "a.py")) == [("A",)]


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.toml", "x = 1\n\n[tool.ruff]\na = 1\nb = 2\nc = 3\n\n[[rows]]\na = 1\nb = 2\nc = 3\n", [(), ("tool.ruff",), ("rows",)]),
        ("a.ini", "[one]\na=1\nb=2\nc=3\n", [("one",)]),
        ("a.yaml", "services:\n  web:\n    image: x\n    port: 1\nvolumes:\n  a:\n  b:\n  c:\n", [("services",), ("volumes",)]),
        ("a.properties", "a.b=1\n", [()]),
    ],
)  # fmt: skip
def test_settings_lie_under_their_sections_or_keys(name: str, source: str, expected: list[tuple[str, ...]]) -> None:
    text = read(source.encode(), name)
    assert text.text == source
    assert outline(text) == expected


def test_a_log_is_cut_at_lines() -> None:
    log = "".join(f"2024-01-02 03:04:{i % 60:02}. INFO  Pump no. {i} started. Then stopped.\n" for i in range(300))
    chunks = split(read(log.encode(), "a.log"), Chunking(64, 8))
    assert len(chunks) > 50
    assert all(line in log.splitlines() for chunk in chunks for line in chunk.text.splitlines())


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.tex", "\\section{One}\nWords.\n\\subsection*{Two}\nMore.\n", [("One",), ("One", "Two")]),
        ("a.org", "* One\nWords.\n** Two\nMore.\n", [("One",), ("One", "Two")]),
        ("a.adoc", "= Title\n\nWords.\n\n== Two\nMore.\n", [("Title",), ("Title", "Two")]),
        ("a.rst", "=====\nTitle\n=====\n\nWords.\n\nTwo\n---\n\nMore.\n\nThree\n-----\n\nLast.\n", [("Title",), ("Title", "Two"), ("Title", "Three")]),
        ("b.rst", "No heading here.\n\n=====  ===\nName   Age\n=====  ===\nAnn    5\n=====  ===\n", [()]),
    ],
)  # fmt: skip
def test_texts_with_other_headings_lie_under_them(name: str, source: str, expected: list[tuple[str, ...]]) -> None:
    text = read(source.encode(), name)
    assert text.text == source
    assert outline(text) == expected


def test_line_ends_of_windows_do_not_come_apart() -> None:
    assert read(PYTHON.replace("\n", "\r\n").encode(), "a.py").text == PYTHON


def test_a_page_in_a_source_file_stays_source() -> None:
    assert read(b"<!DOCTYPE html>\n<template>x</template>\n", "a.vue").text.startswith("<!DOCTYPE")


def test_each_chunk_of_code_says_in_which_class_and_function_it_lies() -> None:
    body = "".join(f"        self.turn({i})\n" for i in range(60))
    text = read(f"class Pump:\n    def start(self):\n{body}\n    def stop(self):\n{body}".encode(), "pump.py")
    chunks = split(text, Chunking(64, 0))
    stop = [chunk for chunk in chunks if chunk.headings == ("Pump", "stop")]
    assert stop[0].text.startswith("Pump\n    def stop(self):\n")
    assert len(stop) > 2
    assert all(chunk.text.startswith("Pump > stop\n        self.turn(") for chunk in stop[1:])
    assert all(text.text[chunk.start_char : chunk.end_char] == chunk.text[chunk.n_repeated :] for chunk in chunks)
    assert all(count_tokens(chunk.text) <= 64 for chunk in chunks)
