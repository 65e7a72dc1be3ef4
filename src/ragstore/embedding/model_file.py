"""Files of models that other packages carry, found without importing those packages."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from ragstore.errors import ModelMissingError

_BLOCK_BYTES = 1 << 20


def package_file(package: str, path: str) -> Path:
    """The file in an installed package; raises ImportError where either is missing."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / path
        if file.is_file():
            return file
    raise ImportError(f"package {package} with file {path} is not installed")


def require_sha256(file: Path, sha256: str, remedy: str) -> None:
    """Raise ModelMissingError unless the file is exactly the one this program was measured with."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ModelMissingError(
            f"model file {file} is damaged or of another version",
            hint=remedy,
            path=str(file),
            sha256=digest.hexdigest(),
        )
