"""Readers of a deployment's choice: any class with LlamaIndex's ``load_data(file=Path)``."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ragstore.errors import ParseError, UnsupportedTypeError
from ragstore.sources.formats import suffix_of
from ragstore.sources.raw import Choices, RawText

_FILE_NAMES = ("file", "file_path", "input_file", "path")
_PLACES = ("file_path", "file_name", "filename", "source")


def load_chosen(choices: Choices) -> None:
    """Import all chosen readers now; one that cannot be imported refuses its files, and no others."""
    for reader in choices.readers.values():
        try:
            _class_of(reader)
        except UnsupportedTypeError:
            continue


def read_chosen(data: bytes, name: str, choices: Choices, path: str = "") -> RawText:
    """The texts of all documents that the reader returns, one part each.

    Args:
        path: where the reader can open the same bytes; empty: a temporary file is made.

    Raises:
        UnsupportedTypeError: the reader cannot be imported, or has no ``load_data``.
        ParseError: it failed.
    """
    reader = choices.readers[suffix_of(name)]
    made = _class_of(reader)
    with _file(data, name, path) as file:
        try:
            documents = list(_load(made(), file))
            texts = [_text(document) for document in documents]
        except MemoryError:
            raise
        except Exception as error:  # the code of somebody else may raise anything
            raise ParseError(
                f"cannot be read by {reader}: {type(error).__name__}: {error}"[:500],
                hint="correct the reader that RAGSTORE_READERS names, or leave the file out",
                reader=reader,
            ) from error
    places = [{"part": number} for number in range(1, len(texts) + 1)] if len(texts) > 1 else []
    return RawText(texts, "markdown", _facts(documents), {}, places)


def _class_of(reader: str) -> Any:
    module, _, name = reader.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # importing runs its code
        raise _unusable(reader, f"cannot be imported: {type(error).__name__}: {error}"[:300]) from error
    if not callable(getattr(found, "load_data", None)):
        raise _unusable(reader, "has no load_data")
    return found


def _unusable(reader: str, why: str) -> UnsupportedTypeError:
    return UnsupportedTypeError(
        f"has a reader, {reader}, that {why}",
        hint="install its package next to ragstore, or correct RAGSTORE_READERS",
        reader=reader,
    )


def _load(reader: Any, file: Path) -> Any:
    names = inspect.signature(reader.load_data).parameters
    named = next((name for name in _FILE_NAMES if name in names), None)
    return reader.load_data(**{named: file}) if named else reader.load_data(file)


def _text(document: Any) -> str:
    text = document.get_content() if hasattr(document, "get_content") else document.text
    return text if isinstance(text, str) else str(text)


def _facts(documents: list[Any]) -> dict[str, Any]:
    """Plain metadata that all documents of the file have in common."""
    found = [dict(getattr(document, "metadata", None) or {}) for document in documents]
    return {
        str(key): value
        for key, value in (found[0] if found else {}).items()
        if isinstance(value, str | int | float | bool)
        and key not in _PLACES
        and all(other.get(key) == value for other in found)
    }


class _NamedPath(type(Path())):  # type: ignore[misc]
    """A path that opens a file without a name, and has the name of the document."""

    document_name = ""

    @property
    def name(self) -> str:
        return self.document_name or str(super().name)

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        return Path(self.name).stem


@contextmanager
def _file(data: bytes, name: str, path: str) -> Iterator[Path]:
    if path:
        named = _NamedPath(path)
        named.document_name = name
        yield named
        return
    with tempfile.NamedTemporaryFile(suffix=suffix_of(name)) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
