"""Homes, folders and documents for tests that use ragstore by its command line alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.command import CommandLine
from tests.support.embedded import a_home, remove
from tests.support.stores import Stores

MANUALS = {
    "pump.md": "# Pump\n\n## Oil\n\nThe pump needs oil every week.\n\n## Noise\n\nA whistling pump sucks in air.\n",
    "valve.txt": "The relief valve opens at nine bar.\n",
    "boiler/descaling.html": "<html><body><h1>Boiler</h1><p>Descale the boiler with vinegar.</p></body></html>",
    "parts.csv": "part,price\ngasket,3\nflange,12\n",
}


@pytest.fixture(scope="session")
def shared_home() -> Iterator[Path]:
    """Servers for tests that leave them running; the first call starts them."""
    home = a_home()
    yield home
    remove(home)


@pytest.fixture
def own_home() -> Iterator[Path]:
    """Servers for a test that stops or breaks them."""
    home = a_home()
    yield home
    remove(home)


@pytest.fixture
def command(shared_home: Path, tmp_path: Path) -> CommandLine:
    """The command line in an empty folder, with a collection of its own and no grace for replaced nodes."""
    options = {"home": shared_home, "collection": f"c{uuid4().hex[:12]}", "grace_s": 0}
    return CommandLine(tmp_path, options)


@pytest.fixture
def collection(command: CommandLine) -> str:
    return str(command.options["collection"])


@pytest.fixture
def stores(command: CommandLine, shared_home: Path) -> Stores:
    """What is really in the shared servers."""
    command("up")
    return Stores.of_home(shared_home)


@pytest.fixture
def manuals(tmp_path: Path) -> Path:
    """A folder of four small documents."""
    folder = tmp_path / "manuals"
    for name, text in MANUALS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
