"""MongoDB as an embedded server: creation of its data, its options, and the check that it is ready."""

from __future__ import annotations

import base64
import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragstore.embedded.account import Account
from ragstore.embedded.credentials import CredentialStore
from ragstore.embedded.home import Home, ServerName, sync_folder, write_private
from ragstore.embedded.ports import LOOPBACK, is_open
from ragstore.embedded.processes import StopSteps
from ragstore.errors import EmbeddedServerError

if TYPE_CHECKING:
    from pymongo import MongoClient

_REPLICA_SET = "rs0"
_OPTIONS = [
    "--bind_ip", LOOPBACK,
    "--nounixsocket",
    "--replSet", _REPLICA_SET,
    "--oplogSize", "128",
    "--wiredTigerCacheSizeGB", "0.25",
    "--quiet",
    # Compressed messages are unpacked before a client has logged in, and the newest mongod on PyPI is old.
    "--networkMessageCompressors", "disabled",
    "--setParameter", "diagnosticDataCollectionEnabled=false",
    # No other member could take over, so a shutdown need not wait for clients to leave.
    "--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0",
]  # fmt: skip
_KEY_BYTES = 512
_TIMEOUT_MS = 5_000
_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13


class MongoServer:
    """The MongoDB server of one home."""

    name: ServerName = "mongo"
    program = "mongod"
    stop_steps: StopSteps = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))

    def __init__(self, home: Home, mongod: Path, account: Account, credentials: CredentialStore) -> None:
        self._folder = home.folder(self.name)
        self._mongod = mongod
        self._account = account
        self._credentials = credentials
        self.data = home.data(self.name)
        # This file exists from before the data until the user exists: only data that never had a user is made again.
        self._unfinished = self._folder / "unfinished"
        self._key_file = self._folder / "key"

    def command(self, port: int) -> list[str]:
        return [
            str(self._mongod), "--dbpath", str(self.data), "--port", str(port), "--keyFile", str(self._key_file),
            *_OPTIONS,
        ]  # fmt: skip

    def prepare(self) -> None:
        """Make an empty data folder if there is none, or if its first start was not finished.

        Call it only while no process uses the data.

        Crash safety:
            Repeating it starts again from the beginning; data that was ever ready for use is never removed.
        """
        self._account.own_folder(self._folder)
        if self._unfinished.exists():
            shutil.rmtree(self.data, ignore_errors=True)
        if not self.data.exists() or not any(self.data.iterdir()):
            self._unfinished.touch()
            sync_folder(self._folder)
        self._account.own_folder(self.data)
        if not self._key_file.exists():
            write_private(self._key_file, base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode())
        self._account.own(self._key_file)

    def probe(self) -> str | None:
        """The version if the user ``ragstore`` can write, else None.

        Raises:
            EmbeddedServerError: it will never be ready, because the password is not accepted.
        """
        from pymongo.errors import OperationFailure, PyMongoError

        if not is_open(self._credentials.current.mongo_port):
            return None
        try:
            if self._unfinished.exists():
                return self._finish_first_start()
            return self._ready_version()
        except OperationFailure as error:
            if error.code != _AUTHENTICATION_FAILED:
                return None
            raise EmbeddedServerError(
                f"the MongoDB data in {self.data} was made with another password than the one remembered",
                hint="put secrets.json back from a backup of RAGSTORE_HOME, or set RAGSTORE_HOME to an empty folder",
                data=str(self.data),
            ) from error
        except PyMongoError:
            return None

    def _finish_first_start(self) -> str | None:
        """Make the replica set and its first user, which a local client may do as long as there is no user."""
        from pymongo.errors import OperationFailure

        address, password = self._address, self._credentials.current.mongo_password
        with self._client(with_password=False) as client:
            hello = client.admin.command("hello")
            if "setName" not in hello:
                members = [{"_id": 0, "host": address}]
                client.admin.command({"replSetInitiate": {"_id": _REPLICA_SET, "members": members}})
                return None
            if not hello["isWritablePrimary"]:
                return None
            try:
                client.admin.command({"createUser": "ragstore", "pwd": password, "roles": ["root"]})
            except OperationFailure as error:
                # Not allowed once there is a user: an earlier probe made it.
                if error.code != _UNAUTHORIZED:
                    raise
        version = self._ready_version()
        if version:
            self._unfinished.unlink()
            sync_folder(self._folder)
        return version

    def _ready_version(self) -> str | None:
        with self._client(with_password=True) as client:
            if client.admin.command("hello")["isWritablePrimary"]:
                return str(client.server_info()["version"])
            self._follow_port(client)
            return None

    def _follow_port(self, client: MongoClient[dict[str, Any]]) -> None:
        """Give the member its present port as its name; with its old name it would never become primary."""
        config = client.admin.command("replSetGetConfig")["config"]
        if config["members"][0]["host"] == self._address:
            return
        config["members"][0]["host"] = self._address
        config["version"] += 1
        client.admin.command({"replSetReconfig": config, "force": True})

    @property
    def _address(self) -> str:
        return f"{LOOPBACK}:{self._credentials.current.mongo_port}"

    def _client(self, *, with_password: bool) -> MongoClient[dict[str, Any]]:
        from pymongo import MongoClient

        current = self._credentials.current
        login: dict[str, Any] = {"username": "ragstore", "password": current.mongo_password} if with_password else {}
        return MongoClient(
            LOOPBACK,
            current.mongo_port,
            directConnection=True,
            serverSelectionTimeoutMS=_TIMEOUT_MS,
            connectTimeoutMS=_TIMEOUT_MS,
            socketTimeoutMS=_TIMEOUT_MS,
            **login,
        )
