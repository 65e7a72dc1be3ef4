"""Makes the replica set and the users of a fresh MongoDB, or gives the users the passwords that the secrets hold now.

Runs in the network of the mongo container, because MongoDB lets only a client on its own machine make the first user.
Safe to repeat and to kill at any time:

    docker compose run --rm mongo-init
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

ALREADY_INITIATED = 23
AUTHENTICATION_FAILED = 18
WAIT_S = 120.0

MEMBER = os.environ.get("MONGO_MEMBER", "mongo:27017")
DATABASE = os.environ.get("RAGSTORE_MONGO_DATABASE") or "ragstore"
TLS_AUTHORITY = Path("/run/secrets/tls_ca")
ADMIN_ROLES = [{"role": "root", "db": "admin"}]
APP_ROLES = [{"role": "readWrite", "db": DATABASE}]


def main() -> int:
    try:
        initiate()
        admin = administrator()
        set_user(admin, "ragstore_admin", ADMIN_ROLES)
        set_user(admin, "ragstore_app", APP_ROLES)
        for user in ("ragstore_admin", "ragstore_app"):
            connect(user).admin.command("ping")
    except PyMongoError as error:
        print(f"mongo-init: {error}", file=sys.stderr)
        return 1
    print(f"mongo-init: replica set with {MEMBER}, users ragstore_admin and ragstore_app")
    return 0


def initiate() -> None:
    """Make the replica set and its first user, where they are not there yet."""
    with client() as local:
        deadline = time.monotonic() + WAIT_S
        while not is_primary(local, deadline):
            start_replica_set(local)
        # Where there are users already it is refused; whether the secret is theirs shows when they log in.
        with contextlib.suppress(OperationFailure):
            local.admin.command("createUser", "ragstore_admin", pwd=secret("ragstore_admin"), roles=ADMIN_ROLES)


def is_primary(local: MongoClient[dict[str, Any]], deadline: float) -> bool:
    """Whether it takes writes; a member that was only just told needs a moment."""
    while time.monotonic() < deadline:
        try:
            hello = local.admin.command("hello")
        except PyMongoError:
            time.sleep(0.2)
            continue
        if hello["isWritablePrimary"] or "setName" not in hello:
            return bool(hello["isWritablePrimary"])
        time.sleep(0.1)
    raise PyMongoError(f"{MEMBER} did not become primary in {WAIT_S:.0f} s; see: docker compose logs mongo")


def start_replica_set(local: MongoClient[dict[str, Any]]) -> None:
    try:
        local.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": MEMBER}]})
    except OperationFailure as error:
        if error.code != ALREADY_INITIATED:
            raise


def administrator() -> MongoClient[dict[str, Any]]:
    """Somebody who may change users: the admin, or, while the secret is not yet its password, the server's own user.

    MongoDB lets whoever has the key file be a member of the replica set, who may do everything.
    """
    admin = connect("ragstore_admin")
    try:
        admin.admin.command("ping")
    except OperationFailure as error:
        if error.code != AUTHENTICATION_FAILED:
            raise
        key = "".join(Path("/run/secrets/mongo_keyfile").read_text(encoding="ascii").split())
        return client(username="__system", password=key, authSource="local")
    return admin


def connect(user: str) -> MongoClient[dict[str, Any]]:
    return client(username=user, password=secret(user), authSource="admin")


def client(**options: Any) -> MongoClient[dict[str, Any]]:
    return MongoClient(
        "127.0.0.1", 27017, directConnection=True, serverSelectionTimeoutMS=30_000, **tls_options(), **options
    )


def tls_options() -> dict[str, Any]:
    return {"tls": True, "tlsCAFile": str(TLS_AUTHORITY)} if TLS_AUTHORITY.exists() else {}


def set_user(admin: MongoClient[dict[str, Any]], name: str, roles: list[dict[str, str]]) -> None:
    exists = admin.admin.command("usersInfo", name)["users"]
    admin.admin.command("updateUser" if exists else "createUser", name, pwd=secret(name), roles=roles)


def secret(user: str) -> str:
    path = Path("/run/secrets") / f"mongo_{user.removeprefix('ragstore_')}_password"
    return path.read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    sys.exit(main())
