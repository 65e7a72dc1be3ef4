"""Real texts that every machine with this project's virtual environment has."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

_CORPUS = Path(__file__).parents[2] / "stack" / "demo" / "corpus.py"


def write_corpus(folder: Path) -> int:
    """The documents of the demo, some 200; returns how many."""
    spec = importlib.util.spec_from_file_location("ragstore_demo_corpus", _CORPUS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    n_documents: int = module.write_corpus(folder)
    return n_documents


def write_sources(folder: Path, n_documents: int) -> int:
    """Modules of Python's standard library as plain text, other documents than the demo's; returns how many."""
    folder.mkdir(parents=True)
    modules = [path for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) if path.stat().st_size > 2_000]
    for path in modules[:n_documents]:
        (folder / f"{path.stem}.txt").write_bytes(path.read_bytes())
    return len(modules[:n_documents])
