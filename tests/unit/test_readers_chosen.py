from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document

from ragstore.errors import ParseError, SettingsError, UnsupportedTypeError
from ragstore.settings import Settings
from ragstore.settings.options import split_list
from ragstore.sources.formats import format_named
from ragstore.sources.raw import Choices
from ragstore.sources.readers import read

HERE = "tests.unit.test_readers_chosen"


class Drawing:
    """As LlamaIndex's readers are."""

    def load_data(self, file: Path, extra_info: dict[str, Any] | None = None) -> list[Document]:
        assert file.suffix == ".dwg"
        text = file.read_text()
        return [
            Document(text=f"drawn: {text}", metadata={"scale": 2, "page": 1, "file_path": str(file)}),
            Document(text="# Legend\n\nwalls", metadata={"scale": 2, "page": 2}),
        ]


class Broken:
    def load_data(self, file: Path) -> list[Document]:
        raise RuntimeError("no licence")


class NoReader:
    pass


def chosen(name: str) -> Choices:
    return Choices(readers={".dwg": f"{HERE}.{name}"})


def test_a_chosen_reader_reads_its_suffix_and_nothing_else() -> None:
    assert format_named("plan.DWG", chosen("Drawing")) and not format_named("plan.dxf", chosen("Drawing"))
    text = read(b"PK\x03\x04 four walls", "plan.dwg", chosen("Drawing"))
    assert text.text == "drawn: PK\x04 four walls\n\n# Legend\n\nwalls".replace("\x04", "")
    assert text.places == [{"part": 1}, {"part": 2}]
    assert text.metadata == {"scale": 2}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (f"{HERE}.Broken", ParseError, "RuntimeError: no licence"),
        (f"{HERE}.NoReader", UnsupportedTypeError, "has no load_data"),
        ("no.such.Class", UnsupportedTypeError, "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_reader_that_fails_refuses_its_file_by_name(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(b"x", "plan.dwg", Choices(readers={".dwg": name}))


@pytest.mark.parametrize(
    "value",
    [".dwg=a.B,.step=c.d.E", '{".dwg": "a.B", ".step": "c.d.E"}', {".dwg": "a.B", ".step": "c.d.E"}],
)
def test_readers_are_pairs_json_or_a_table(value: object) -> None:
    assert Settings(readers=value).readers == ".dwg=a.B,.step=c.d.E"


@pytest.mark.parametrize("value", ["dwg=a.B", ".dwg", ".dwg=Class", '{"x"', ".dwg=a.B; .x"])
def test_other_forms_are_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="pairs of a suffix and a class"):
        Settings(readers=value)


def test_text_suffixes_are_a_list() -> None:
    assert split_list(Settings(text_suffixes=[".dat", "Brewfile"]).text_suffixes) == [".dat", "Brewfile"]
    with pytest.raises(SettingsError, match="suffixes and whole names"):
        Settings(text_suffixes="*.dat")
