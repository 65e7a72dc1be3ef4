"""A real S3 server, SeaweedFS, with a key that may not delete."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.children import until

BUCKET = "backups"
_REGION = "us-east-1"


@dataclass(frozen=True)
class Key:
    id: str
    secret: str


ADMIN, WRITER = Key("adminkey", "adminsecret"), Key("writerkey", "writersecret")


@dataclass(frozen=True)
class S3:
    """A server, with a bucket that is locked: no version of an object can be deleted by the writer."""

    url: str

    def client(self, key: Key) -> Any:
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=key.id,
            aws_secret_access_key=key.secret,
            region_name=_REGION,
        )

    def environment(self, key: Key) -> dict[str, str]:
        """What s3fs reads."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": key.id,
            "AWS_SECRET_ACCESS_KEY": key.secret,
            "AWS_DEFAULT_REGION": _REGION,
        }

    def versions(self) -> list[tuple[str, str]]:
        """Key and version of every object, those that were overwritten and marks of deletion included."""
        found = self.client(ADMIN).list_object_versions(Bucket=BUCKET)
        return sorted((e["Key"], e["VersionId"]) for k in ("Versions", "DeleteMarkers") for e in found.get(k, []))


def program() -> Path | None:
    """SeaweedFS's program, if its package is installed."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


@contextmanager
def an_s3_server(folder: Path) -> Iterator[S3]:
    """Runs until the block ends."""
    weed = program()
    assert weed is not None
    identities = [
        {"name": name, "credentials": [{"accessKey": key.id, "secretKey": key.secret}], "actions": actions}
        for name, key, actions in (
            ("admin", ADMIN, ["Admin", "Read", "Write", "List", "Tagging"]),
            ("writer", WRITER, [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")]),
        )
    ]
    data, config = folder / "data", folder / "s3.json"
    data.mkdir(parents=True)
    config.write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3 = _free_ports(4)
    command = [
        str(weed), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={config}",
        "-master.volumeSizeLimitMB=64", "-volume.max=20",
    ]  # fmt: skip
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            made = S3(f"http://127.0.0.1:{s3}")
            until(lambda: _has_bucket(made), what="SeaweedFS has a bucket", timeout_s=120)
            yield made
        finally:
            process.kill()
            process.wait()


def _has_bucket(s3: S3) -> bool:
    admin = s3.client(ADMIN)
    forbidden = {
        "Effect": "Deny",
        "Principal": {"AWS": ["arn:aws:iam::000000000000:user/writer"]},
        "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
        "Resource": [f"arn:aws:s3:::{BUCKET}/*"],
    }
    try:
        if BUCKET not in [each["Name"] for each in admin.list_buckets()["Buckets"]]:
            admin.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        policy = {"Version": "2012-10-17", "Statement": [forbidden]}
        admin.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
        s3.client(WRITER).put_object(Bucket=BUCKET, Key="ready", Body=b"")
    except (BotoCoreError, ClientError):
        return False
    return True


def _free_ports(n: int) -> list[int]:
    """Ports of which those 10,000 above are free too: SeaweedFS listens there for gRPC."""
    found: list[int] = []
    for port in range(21_000, 40_000, 7):
        if all(_is_free(each) for each in (port, port + 10_000)):
            found.append(port)
        if len(found) == n:
            return found
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
