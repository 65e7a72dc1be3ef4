from __future__ import annotations

import threading
import time
from pathlib import Path

import ragstore
from ragstore.settings import Settings
from tests.support.corpus import a_text
from tests.support.stores import Stores


def test_a_long_lived_process_retires_what_its_grace_period_held_back(settings: Settings, tmp_path: Path) -> None:
    assert settings.postgres_url is not None and settings.mongo_url is not None
    stores = Stores(
        settings.postgres_url.get_secret_value(), settings.mongo_url.get_secret_value(), settings.mongo_database
    )
    document = tmp_path / "manual.txt"
    document.write_text(a_text("first"))
    with ragstore.open(settings.model_copy(update={"grace_s": 1.0, "lease_ttl_s": 0.5})) as store:
        store.ingest(document)
        old = set(stores.entries("default/data"))
        document.write_text(a_text("second"))
        store.ingest(document)
        assert old < set(stores.entries("default/data")), "readers that still hold the old ids must find them"
        until_gone(stores, old)
        stores.assert_agree("default")


def until_gone(stores: Stores, node_ids: set[str]) -> None:
    waiting, deadline = threading.Event(), time.monotonic() + 20
    while node_ids & set(stores.entries("default/data")):
        assert time.monotonic() < deadline, "the old nodes were never retired"
        waiting.wait(0.1)
