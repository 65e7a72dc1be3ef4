"""Tests of adoption from other systems' engines; they need the environment that ``make systems`` makes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support.llama_faces import DIM, Faces, faces_on
from tests.support.parts import postgres_url

if find_spec("chromadb") is None:
    raise pytest.UsageError("tests/systems run in an environment of their own: make systems")


@pytest.fixture
def faces(settings: Settings, store: Ragstore) -> Iterator[Faces]:
    store.create_collection("docs", model="external", dim=DIM)
    assert settings.mongo_url is not None
    with faces_on(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database) as opened:
        yield opened
