"""PostgreSQL and MongoDB in containers, from the images of compose.yaml, each at one address for all its life."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragstore.embedded.ports import LOOPBACK, a_free_port
from ragstore.protocol.recover import is_dead, this_worker
from tests.support.ready import initiate, until_mongo_answers, until_postgres_answers

OWNER = "ragstore-tests"
"""Label that names the process to which a container or volume belongs."""

STACK = Path(__file__).resolve().parents[2] / "stack"
_COMPOSE = STACK.parent / "compose.yaml"
_USER = "999:999"
_STOP_S = 60


class NoContainersError(Exception):
    """Containers cannot be run here; the text says why."""


def image(variable: str) -> str:
    """What compose.yaml would use for ``POSTGRES_IMAGE`` or ``MONGO_IMAGE``."""
    found = re.search(rf"\$\{{{variable}:-([^}}]+)\}}", _COMPOSE.read_text(encoding="utf-8"))
    assert found is not None, f"{_COMPOSE} does not name {variable}"
    return os.environ.get(variable) or found[1]


def check_engine() -> None:
    """Find the engine and both images, pulled if need be.

    Raises:
        NoContainersError
    """
    from docker.errors import DockerException, ImageNotFound

    try:
        with _engine() as engine:
            engine.ping()
            for name in (image("POSTGRES_IMAGE"), image("MONGO_IMAGE")):
                try:
                    engine.images.get(name)
                except ImageNotFound:
                    engine.images.pull(name)
    except DockerException as error:
        raise NoContainersError(" ".join(str(error).split())[:200]) from error


def sweep(*, also: str | None = None) -> None:
    """Remove what belongs to processes that are dead, and ``also`` to this one."""
    from docker.errors import NotFound

    wanted = {"label": OWNER}
    with _engine() as engine:
        found = [(each, each.labels[OWNER]) for each in engine.containers.list(all=True, filters=wanted)]
        found += [(each, each.attrs["Labels"][OWNER]) for each in engine.volumes.list(filters=wanted)]
        for each, owner in found:
            if owner == also or is_dead(owner):
                with contextlib.suppress(NotFound):  # another run sweeps too
                    _remove(each)


class Container:
    """One server; killed, stopped and started again it is at the same address, with its data.

    Args:
        volume: holds the data instead of a volume that is the container's own.
    """

    _data = ""
    _tmpfs: Mapping[str, str] = {}

    def __init__(self, image_name: str, *, volume: str | None = None) -> None:
        self._image = image_name
        self._volume = volume
        self._running: Any = None
        self.port = a_free_port()

    def create(self) -> None:
        """Run it for the first time, and wait until it can be used."""
        _prepare_testcontainers()
        from testcontainers.core.container import DockerContainer

        made = DockerContainer(self._image).with_kwargs(
            user=_USER, init=True, labels={OWNER: this_worker()}, **self._options()
        )
        if self._inner_port:
            # Else the engine could choose another host port each time it starts.
            made.ports[f"{self._inner_port}/tcp"] = (LOOPBACK, self.port)  # type: ignore[assignment]
        made.with_command(self._arguments())
        made.tmpfs.update(self._tmpfs)
        for source, target in self._mounts().items():
            made.with_volume_mapping(source, target, "rw" if source == self._volume else "ro")
        made.start()
        self._running = made
        self._set_up()

    def kill(self) -> None:
        """End all its processes by SIGKILL, if it runs."""
        self._wrapped.reload()
        if self._wrapped.status == "running":
            self._wrapped.kill()
            self._wrapped.wait()

    def stop(self) -> None:
        """Let it end in its own way."""
        self._wrapped.stop(timeout=_STOP_S)

    def start(self) -> None:
        """Run it again, and wait until it can be used."""
        self._wrapped.start()
        self.until_ready()

    def wipe(self) -> None:
        """Remove its data with the container, and make a fresh one."""
        self.remove()
        self.create()

    def remove(self) -> None:
        """Remove it and its data."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def until_ready(self) -> None:
        """Wait until it can be used."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """With a user who may do everything."""
        raise NotImplementedError

    @property
    def log(self) -> str:
        """What it has said so far."""
        return str(self._wrapped.logs().decode(errors="replace"))

    @property
    def _wrapped(self) -> Any:
        return self._running.get_wrapped_container()

    @property
    def _inner_port(self) -> int | None:
        """None where the container is in the machine's own network."""
        return self.port

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError

    def _arguments(self) -> list[str]:
        raise NotImplementedError

    def _mounts(self) -> dict[str, str]:
        return {self._volume: self._data} if self._volume else {}

    def _set_up(self) -> None:
        self.until_ready()


class PostgresContainer(Container):
    """As compose.yaml runs it, from ``stack/postgres/start``; but its superuser gets a password.

    Args:
        options: of ``postgres``, as ``name=value``.
        pgvector: False uninstalls the extension, once the database ``ragstore`` is made.
    """

    _data = "/var/lib/postgresql/data"
    _tmpfs: Mapping[str, str] = {"/tmp": "mode=1777,size=64m", "/var/run/postgresql": "mode=1777,size=1m"}

    def __init__(self, *, volume: str | None = None, options: Sequence[str] = (), pgvector: bool = True) -> None:
        super().__init__(image("POSTGRES_IMAGE"), volume=volume)
        self._given = options
        self._pgvector = pgvector
        self._password = secrets.token_urlsafe(16)
        self._secrets = Path(tempfile.mkdtemp(prefix="ragstore-secrets-"))
        self._secrets.chmod(0o755)
        for role in ("owner", "app", "backup"):
            (self._secrets / f"postgres_{role}_password").write_text(secrets.token_urlsafe(16))

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._password}@{LOOPBACK}:{self.port}/postgres"

    def until_ready(self) -> None:
        until_postgres_answers(self.url, alive=self._check_alive)

    def remove(self) -> None:
        super().remove()
        shutil.rmtree(self._secrets, ignore_errors=True)

    def wipe(self) -> None:
        super().remove()
        self.create()

    @property
    def _inner_port(self) -> int:
        return 5432

    def _options(self) -> dict[str, Any]:
        return {
            "entrypoint": ["/stack/start"],
            "stop_signal": "SIGINT",
            "shm_size": "1g",
            "read_only": self._pgvector,
        }

    def _arguments(self) -> list[str]:
        return [word for option in self._given for word in ("-c", option)]

    def _mounts(self) -> dict[str, str]:
        return {**super()._mounts(), str(STACK / "postgres"): "/stack", str(self._secrets): "/run/secrets"}

    def _set_up(self) -> None:
        # Any answer over the network: the cluster is made, and serves more than its own socket.
        until_postgres_answers(self.url, alive=self._check_alive, refused_is_fine=True)
        statement = f"ALTER ROLE postgres PASSWORD '{self._password}'"
        command = ["psql", "--host=/tmp", "--username=postgres", "--quiet", "--command", statement]
        status, output = self._wrapped.exec_run(command)
        assert status == 0, output
        if not self._pgvector:
            command = ["sh", "-c", "rm /usr/share/postgresql/*/extension/vector.control"]
            status, output = self._wrapped.exec_run(command, user="root")
            assert status == 0, output
        self.until_ready()

    def _check_alive(self) -> None:
        self._wrapped.reload()
        assert self._wrapped.status == "running", self.log[-3000:]


class MongoContainer(Container):
    """One member of a replica set, without passwords.

    Args:
        alone: it is the only member; several are in the machine's own network, so that each is at the same address for
            all of them and for clients.
    """

    _data = "/data/db"

    def __init__(self, *, volume: str | None = None, alone: bool = True) -> None:
        super().__init__(image("MONGO_IMAGE"), volume=volume)
        self._alone = alone

    @property
    def address(self) -> str:
        """The same inside and outside of the container."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return f"mongodb://{self.address}/?replicaSet=rs0"

    def until_ready(self) -> None:
        until_mongo_answers(self.address, as_primary=self._alone)

    @property
    def _inner_port(self) -> int | None:
        return self.port if self._alone else None

    def _options(self) -> dict[str, Any]:
        return {"entrypoint": ["mongod"], **({} if self._alone else {"network_mode": "host"})}

    def _arguments(self) -> list[str]:
        return [
            "--replSet", "rs0", *(("--bind_ip_all",) if self._alone else ("--bind_ip", LOOPBACK)), "--port", str(self.port), "--dbpath", self._data, "--quiet",
            "--oplogSize", "128", "--wiredTigerCacheSizeGB", "0.25",
            # There is no other member that could take over while clients are asked to leave.
            *(("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0") if self._alone else ()),
        ]  # fmt: skip

    def _set_up(self) -> None:
        until_mongo_answers(self.address, as_primary=False)
        if self._alone:
            initiate([self.address])


class StandaloneMongoContainer(MongoContainer):
    """A server that is no member of a replica set."""

    @property
    def url(self) -> str:
        return f"mongodb://{self.address}/"

    def _arguments(self) -> list[str]:
        return ["--bind_ip_all", "--port", str(self.port), "--dbpath", self._data, "--quiet"]

    def _set_up(self) -> None:
        until_mongo_answers(self.address, as_primary=False)


class SmallVolume:
    """A volume of so many megabytes of memory, and a container that keeps it there while others come and go."""

    path = "/disk"

    def __init__(self, n_mb: int) -> None:
        _prepare_testcontainers()
        from testcontainers.core.container import DockerContainer

        self.name = f"{OWNER}-{secrets.token_hex(6)}"
        labels = {OWNER: this_worker()}
        with _engine() as engine:
            memory = {"type": "tmpfs", "device": "tmpfs", "o": f"size={n_mb}m,uid=999,gid=999"}
            engine.volumes.create(self.name, driver="local", driver_opts=memory, labels=labels)
        self._keeper = DockerContainer(image("POSTGRES_IMAGE")).with_kwargs(
            entrypoint=["sleep"], user=_USER, init=True, labels=labels
        )
        self._keeper.with_command(["infinity"]).with_volume_mapping(self.name, self.path, "rw")
        self._keeper.start()

    def run(self, script: str) -> str:
        """What a shell prints that works in the volume."""
        status, output = self._keeper.get_wrapped_container().exec_run(["sh", "-c", script], workdir=self.path)
        assert status == 0, output
        return str(output.decode())

    def remove(self) -> None:
        """Remove both."""
        self._keeper.stop()
        with _engine() as engine:
            engine.volumes.get(self.name).remove(force=True)


def _engine() -> Any:
    import docker

    return contextlib.closing(docker.from_env(timeout=120))


def _prepare_testcontainers() -> None:
    """It reads these when it is imported: no container that cleans up for it, and ports of this machine."""
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    os.environ["TESTCONTAINERS_HOST_OVERRIDE"] = LOOPBACK


def _remove(found: Any) -> None:
    from docker.models.volumes import Volume

    if isinstance(found, Volume):
        found.remove(force=True)
    else:
        found.remove(force=True, v=True)
