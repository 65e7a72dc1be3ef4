from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ragstore.ingest.planner import is_overtaken
from ragstore.model.document import DocumentState, SourceItem

READ = SourceItem("a", "a", size=10, mtime_ns=100, ctime_ns=100)
GONE = None
DELETED = datetime(2026, 1, 1, tzinfo=UTC)


def a_state(size: int, mtime_ns: int | None, *, deleted: bool = False) -> DocumentState:
    deleted_at = DELETED if deleted else None
    return DocumentState("a", "a", 2, 1, size=size, mtime_ns=mtime_ns, ctime_ns=mtime_ns, deleted_at=deleted_at)


@pytest.mark.parametrize(
    ("state", "now", "overtaken"),
    [
        pytest.param(a_state(10, 90), (10, 100, 100), False, id="the source is as it was read"),
        pytest.param(a_state(12, 110), (10, 100, 100), False, id="the source went back to what was read"),
        pytest.param(a_state(12, 110), (12, 110, 110), True, id="the ledger has the source as it is now"),
        pytest.param(a_state(8, 60), (8, 60, 60), True, id="the ledger has the older source that was put back"),
        pytest.param(a_state(12, 110), (14, 120, 120), True, id="the ledger has a newer source than was read"),
        pytest.param(a_state(8, 60), (14, 120, 120), False, id="the ledger has an older source than was read"),
        pytest.param(a_state(10, 100), (10, 100, 105), False, id="only the rights of the source changed"),
        pytest.param(
            replace(a_state(10, 100), ctime_ns=105), (10, 100, 105), True, id="the source changed under its old time"
        ),
        pytest.param(a_state(8, None), (14, 120, 120), False, id="the ledger does not know the time"),
        pytest.param(a_state(8, 60), GONE, False, id="the source is gone and nobody deleted the document"),
        pytest.param(a_state(8, 60, deleted=True), GONE, True, id="the source is gone and the document deleted"),
        pytest.param(a_state(8, 60, deleted=True), (14, 120, 120), False, id="the source came back and changes on"),
        pytest.param(a_state(12, 110), GONE, True, id="the ledger had a newer source and that is gone too"),
    ],
)
def test_what_was_read_is_overtaken_when_the_ledger_follows_the_source_more_closely(
    state: DocumentState, now: tuple[int, int, int] | None, overtaken: bool
) -> None:
    assert is_overtaken(state, READ, now) is overtaken
