"""Backups on a real S3 server, in a locked bucket, with a key that may neither delete nor overwrite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from llama_index.core.schema import TextNode

from ragstore.app import Ragstore, backups
from ragstore.app.backups import Wanted
from ragstore.errors import BackupError, BackupLostError
from ragstore.settings import Settings
from tests.support.backups import Other, another_pair
from tests.support.s3 import ADMIN, BUCKET, S3, WRITER, Key, an_s3_server, program
from tests.support.servers import Servers

pytestmark = pytest.mark.skipif(program() is None, reason="there is no package of SeaweedFS for this platform")

NAME = "notes"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with an_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def other(test_servers: Servers, template_database: str, settings: Settings) -> Iterator[Other]:
    with another_pair(test_servers, template_database, settings) as made:
        yield made


def use(s3: S3, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    for name, value in s3.environment(key).items():
        monkeypatch.setenv(name, value)


def add(store: Ragstore, *ids: str) -> None:
    nodes = [TextNode(id_=i, text=f"text of {i}", embedding=[float(len(i)), 1, 2]) for i in ids]
    store.storage_context(NAME).vector_store.add(nodes)


def texts(other: Other) -> set[str]:
    with other.open() as rs:
        hits = rs.query("", collection=NAME, embedding=[1.0, 1, 1], mode="vector", top_k=100)
        return {hit.text for hit in hits}


def test_it_works_with_a_key_that_may_not_delete(
    s3: S3, store: Ragstore, settings: Settings, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(s3, WRITER, monkeypatch)
    target = f"s3://{BUCKET}/one"
    store.create_collection(NAME, model="external", dim=3)
    add(store, "a", "b")
    first = backups.create(settings, target)
    before = s3.versions()
    add(store, "c")
    second = backups.create(settings, target)
    after = s3.versions()
    assert set(before) < set(after)
    assert len({key for key, _ in after}) == len(after), "something was overwritten or deleted"
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.client(WRITER).delete_object(Bucket=BUCKET, Key=after[-1][0])
    report = backups.verify(target)
    assert (report.ok, report.whole) == (True, [first.id, second.id])
    assert backups.restore(other.settings, target).ok
    assert texts(other) == {"text of a", "text of b", "text of c"}
    with pytest.raises(BackupError):
        backups.prune(target, "1")
    assert backups.verify(target).ok or backups.verify(target).losses
    assert backups.restore(other.settings, target, Wanted(replace=True)).ok


def test_damage_is_found_and_the_owner_may_prune(
    s3: S3, store: Ragstore, settings: Settings, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(s3, ADMIN, monkeypatch)
    target = f"s3://{BUCKET}/two"
    store.create_collection(NAME, model="external", dim=3)
    add(store, "a", "b")
    first = backups.create(settings, target)
    add(store, "c", "d", "e")
    backups.create(settings, target)
    assert backups.prune(target, "1").deleted == [first.id]
    assert backups.verify(target).ok
    client: Any = s3.client(ADMIN)
    keys = sorted({key for key, _ in s3.versions() if key.startswith("two/packs/")})
    live = [each["Key"] for each in client.list_objects_v2(Bucket=BUCKET, Prefix="two/packs/")["Contents"]]
    assert set(live) <= set(keys)
    body = bytearray(client.get_object(Bucket=BUCKET, Key=live[0])["Body"].read())
    body[-1] ^= 1
    client.put_object(Bucket=BUCKET, Key=live[0], Body=bytes(body))
    report = backups.verify(target)
    assert [loss.name for loss in report.losses] == [live[0].removeprefix("two/")]
    with pytest.raises(BackupLostError, match="damaged"):
        backups.restore(other.settings, target)
    assert other.names() == []


def test_a_bucket_that_is_not_there_is_named(s3: S3, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    use(s3, WRITER, monkeypatch)
    with pytest.raises(BackupError, match="s3://nowhere"):
        backups.create(settings, "s3://nowhere/at/all")


def test_a_url_of_memory_is_a_target_like_any(
    store: Ragstore, settings: Settings, other: Other, tmp_path: Path
) -> None:
    store.create_collection(NAME, model="external", dim=3)
    add(store, "a")
    backups.create(settings, "memory://backups")
    assert backups.restore(other.settings, "memory://backups").ok
    assert texts(other) == {"text of a"}
