from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ragstore.errors import StoreError
from ragstore.model.node import Node
from ragstore.mongo.nodes import NodeStore
from ragstore.settings import Settings
from tests.support.parts import a_revision, execute, open_parts

pytestmark = pytest.mark.on_both


class LastBeforeTheOutage(NodeStore):
    """Stages, and then PostgreSQL's runs cannot be reached any more."""

    outage: Callable[[], object]

    def stage(self, namespace: str, nodes: Sequence[Node], *, between: Callable[[], None]) -> None:
        super().stage(namespace, nodes, between=between)
        self.outage()


def test_a_run_that_could_not_be_given_up_is_given_up_before_its_lease_ends(settings: Settings) -> None:
    with open_parts(settings, nodes_class=LastBeforeTheOutage) as parts:
        assert isinstance(parts.nodes, LastBeforeTheOutage)
        parts.nodes.outage = lambda: execute(settings, "ALTER TABLE ragstore.run RENAME TO run_out_of_reach")
        with pytest.raises(StoreError):
            parts.publisher.publish(parts.collection, [a_revision("a", "Never seen.")])
        execute(settings, "ALTER TABLE ragstore.run_out_of_reach RENAME TO run")
        parts.recoverer.recover()
        assert parts.nodes.count_nodes("docs") == 1, "its lease has not run out, so nobody else may clean up"
        parts.publisher.abandon_failed()
        parts.recoverer.recover()
        parts.oracle.assert_settled({})
