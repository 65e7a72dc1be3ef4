"""Documents that LlamaIndex code wrote, and what several workers write next of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.crash.forked import COLLECTION, WORKS, Order
from tests.support import children
from tests.support.children import until
from tests.support.internals import writer_of
from tests.support.llama_faces import DIM, Faces, faces_on
from tests.support.parts import execute, postgres_url

FIRST, SECOND, THIRD = "pstqr", "stu", "tsu"
"""Documents of each worker: some are the first one's alone, at both ends."""

NAMES = "pqrstu"

Versions = Mapping[str, int | None]


@dataclass
class LlamaScene:
    """Documents that LlamaIndex code wrote, each all of one version."""

    rs: Ragstore
    faces: Faces
    settings: Settings
    live: Versions
    round: int = 1

    def order(self, operation: str, names: str, **options: object) -> Order:
        env = children.environment(self.settings, lease_ttl_s=60, **options)
        return Order(operation, arguments_of(operation, names, self.round), env)

    def do(self, operation: str, names: str) -> None:
        WORKS[operation](self.rs, *arguments_of(operation, names, self.round))

    def next(self, operation: str) -> Versions:
        """What is live once the operation is done."""
        self.round += 1
        if operation == "llama delete" and not any(self.live.values()):
            self.do("llama refresh", NAMES)
            self.live = dict.fromkeys(NAMES, self.round)
        return dict.fromkeys(NAMES, None if operation == "llama delete" else self.round)

    def settle(self) -> None:
        until(self._is_settled, what="runs and outbox are empty")

    def _is_settled(self) -> bool:
        writer_of(self.rs).recoverer.recover()
        return execute(self.settings, "SELECT count(*) FROM ragstore.outbox") == [(0,)]


def arguments_of(operation: str, names: str, version: int) -> Sequence[Any]:
    return tuple(names) if operation == "llama delete" else [(name, version) for name in names]


@contextmanager
def a_llama_scene(settings: Settings) -> Iterator[LlamaScene]:
    assert settings.mongo_url is not None
    mongo_url = settings.mongo_url.get_secret_value()
    # Nobody but the workers does what is left in the outbox.
    with (
        ragstore.open(settings.model_copy(update={"lease_ttl_s": 600})) as rs,
        faces_on(postgres_url(settings), mongo_url, settings.mongo_database, COLLECTION) as faces,
    ):
        rs.create_collection(COLLECTION, model="external", dim=DIM)
        scene = LlamaScene(rs, faces, settings, dict.fromkeys(NAMES, 1))
        scene.do("llama refresh", NAMES)
        yield scene
