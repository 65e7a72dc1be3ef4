from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from ragstore.model.run import new_node_id, new_run_id


def test_ids_are_version_7_uuids_of_now() -> None:
    before = time.time_ns() // 1_000_000
    for made in (UUID(new_node_id()), UUID(new_run_id())):
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_made_at_the_same_time_differ() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = [i for ids in threads.map(lambda _: [new_node_id() for _ in range(5_000)], range(4)) for i in ids]
    assert len(set(made)) == len(made)
