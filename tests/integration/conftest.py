"""Fixtures of the tests of LlamaIndex's faces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.database import Database

from tests.support.llama_children import Place
from tests.support.llama_faces import Faces, faces_on
from tests.support.servers import Servers


@pytest.fixture
def place(test_servers: Servers, postgres_database: str, mongo_database: Database[dict[str, Any]]) -> Place:
    """Where children find this test's databases."""
    return Place(postgres_database, test_servers.mongo_url, mongo_database.name)


@pytest.fixture
def faces(place: Place) -> Iterator[Faces]:
    """A collection of vectors from outside, as LlamaIndex code sees it."""
    with faces_on(place.postgres_url, place.mongo_url, place.mongo_name) as opened:
        yield opened
