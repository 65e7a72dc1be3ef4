from __future__ import annotations

import pytest

from ragstore.errors import UnsupportedTypeError
from ragstore.sources.formats import FORMATS, Format, format_named, format_of
from ragstore.sources.raw import Choices
from ragstore.sources.readers import read
from tests.support.files import a_docx, a_pdf, a_word_paragraph, a_zip


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"%PDF-1.7\n", "notes.md", "pdf"),
        (b"junk before\n%PDF-1.7\n", "a.pdf", "pdf"),
        (b"A text about %PDF-1.7 files", "a.txt", "text"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><p>x", "a.txt", "html"),
        (b"<?xml version='1.0'?>\n<html xmlns=''>", "a.md", "html"),
        (b"<p align=center>logo</p>\n# Title", "a.md", "markdown"),
        (b"Error 404: not found", "a.pdf", "text"),
        (b"GIF89a is an old image format", "a.txt", "text"),
        (b"a,b\n1,2", "A.CSV", "csv"),
        (b"{}", "a.ndjson", "jsonl"),
    ],
)
def test_bytes_decide_before_the_name(data: bytes, name: str, expected: Format) -> None:
    assert format_of(data, name) == expected


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
        (b"GIF89a\x01\x00\x01\x00", "GIF"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00\x00", "an old Office document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage\0".encode("utf-16-le"), "with a password"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument\0".encode("utf-16-le"), "old Word document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "PowerPoint Document\0".encode("utf-16-le"), "old presentation"),
        (b"\x00\x00\x00\x20ftypisom", "MP4"),
        (b"\x7fELF\x02\x01\x01\x00", "program"),
        (b"%!PS-Adobe-3.0 words", "PostScript"),
        (a_zip({"readme.txt": "x"}), "zip archive"),
        (a_zip({"AndroidManifest.xml": "x"}), "an Android program"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx"])
def test_what_has_no_reader_is_named(data: bytes, what: str, name: str) -> None:
    with pytest.raises(UnsupportedTypeError, match=what):
        read(data, name)


def test_a_readable_type_under_another_name_is_read_as_what_it_is() -> None:
    assert read(a_pdf(["Hello there."]), "a.md").text == "Hello there."
    assert read(a_docx(a_word_paragraph("Hello there.")), "a.txt").text == "Hello there."
    assert read(b"<html><body><h1>Hello</h1>there.", "a.txt").text == "# Hello\n\nthere."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("README", "text"),
        ("COPYING-LGPL", "text"),
        ("Changelog", "text"),
        ("Makefile", "code"),
        ("a/Dockerfile", "code"),
        ("CMakeLists.txt", "code"),
        ("a.YML", "settings"),
        ("server.log", "log"),
        ("a.docm", "docx"),
        ("a.dotx", "docx"),
        ("a.xlsm", "sheets"),
        ("a.potx", "slides"),
        ("a.png", None),
        ("IMG_1.JPG", None),
        ("core", None),
        ("prod.env", None),
    ],
)
def test_names_say_what_is_read(name: str, expected: Format | None) -> None:
    assert format_named(name) == expected


def test_a_deployment_names_further_texts() -> None:
    chosen = Choices(text_suffixes=[".dat", "brewfile"])
    assert [format_named(name, chosen) for name in ("a.DAT", "Brewfile", "a.dot")] == ["text", "text", None]
    assert read(b"x = 1\n", "a.dat", chosen).text == "x = 1\n"


def test_no_name_belongs_to_two_formats() -> None:
    names = [name for kind in FORMATS.values() for name in kind.names.split()]
    assert sorted(names) == sorted(set(names))
