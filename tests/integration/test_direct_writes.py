"""Nodes with ids of the caller's choice: what this process has in memory may be out of date when MongoDB gets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pymongo.database import Database

from ragstore.model.node import Node
from ragstore.model.run import Written
from ragstore.protocol.direct import DirectWriter
from ragstore.protocol.recover import Recoverer
from ragstore.settings import Settings
from tests.support.parts import DIM, Parts, open_parts


def a_node(node_id: str, text: str) -> Node:
    return Node(node_id, "d", text, {}, {"id_": node_id, "text": "", "class_name": "TextNode"})


def a_writer(parts: Parts, recoverer: Recoverer | None = None) -> DirectWriter:
    return DirectWriter(parts.pool, recoverer or parts.recoverer, worker="elsewhere/1/2/3")


def add(parts: Parts, writer: DirectWriter, *nodes: Node) -> None:
    writer.add(parts.collection, nodes, np.ones((len(nodes), DIM), dtype=np.float32))


def bodies(mongo: Database[dict[str, Any]]) -> dict[str, str]:
    return {body["_id"]: body["__data__"]["text"] for body in mongo["docs/data"].find()}


class Overtaken(Recoverer):
    """Another writer comes between a commit and what follows in MongoDB."""

    meanwhile: Callable[[], object]

    def finish(self, outbox_ids: Sequence[int], written: Written | None = None) -> None:
        self.meanwhile()
        super().finish(outbox_ids, written)


class Dying(Recoverer):
    """Dies between its commit and MongoDB."""

    def finish(self, outbox_ids: Sequence[int], written: Written | None = None) -> None:
        pass


def an_overtaken(parts: Parts, meanwhile: Callable[[], object]) -> DirectWriter:
    recoverer = Overtaken(parts.pool, parts.ledger, parts.nodes)
    recoverer.meanwhile = meanwhile
    return a_writer(parts, recoverer)


def test_a_node_that_was_replaced_after_the_commit_reaches_mongodb_as_it_is_now(
    settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    with open_parts(settings) as parts:
        newer = a_writer(parts, Dying(parts.pool, parts.ledger, parts.nodes))
        writer = an_overtaken(parts, lambda: add(parts, newer, a_node("n1", "new")))
        add(parts, writer, a_node("n1", "old"), a_node("n2", "old"))
        assert bodies(mongo_database) == {"n1": "new", "n2": "old"}
        parts.recoverer.recover()
    assert bodies(mongo_database) == {"n1": "new", "n2": "old"}


def test_a_node_that_was_deleted_after_the_commit_does_not_come_back(
    settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    with open_parts(settings) as parts:
        other = a_writer(parts)
        writer = an_overtaken(parts, lambda: other.delete_nodes(parts.collection, ["n1"]))
        add(parts, writer, a_node("n1", "old"), a_node("n2", "old"))
    assert bodies(mongo_database) == {"n2": "old"}


def test_adding_nodes_again_replaces_their_bodies_and_those_that_other_programs_wrote(
    settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    mongo_database["docs/data"].insert_one({"_id": "n3", "__data__": {"text": "foreign"}, "__type__": "1"})
    with open_parts(settings) as parts:
        writer = a_writer(parts)
        add(parts, writer, a_node("n1", "old"))
        add(parts, writer, a_node("n1", "new"), a_node("n2", "new"), a_node("n3", "new"))
    assert bodies(mongo_database) == {"n1": "new", "n2": "new", "n3": "new"}
