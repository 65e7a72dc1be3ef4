"""What the bench compares its queries with is the same question."""

from __future__ import annotations

from dataclasses import replace

from ragstore.settings import Settings
from tests.benchmarks.scale import QUICK
from tests.benchmarks.search import ask, bare, messages_of
from tests.benchmarks.workbench import opened_workbench


def test_raw_and_plain_find_what_ragstore_finds(settings: Settings) -> None:
    scale = replace(QUICK, large=2_000, index_min_nodes=500)
    with opened_workbench(settings, scale, 1, lambda _: None) as bench:
        large, questions = bench.data.large, bench.data.questions(5)
        sent = messages_of(bench, large, questions)
        assert sent is not None
        with bare(bench, sent) as by_hand:
            assert by_hand is not None
            for i in range(len(questions)):
                ours = ask(bench, large, questions, i)
                assert len(ours) == 10
                rows = by_hand(i)
                assert isinstance(rows, list) and len(rows) == 10
                assert all(any(node_id in row for row in rows) for node_id in ours)
                assert len(set(bench.data.plain.find(questions[i])) & set(ours)) >= 9
        assert bench.left_out == []
