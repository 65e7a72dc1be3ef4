from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llama_index.core import Document, VectorStoreIndex, load_index_from_storage

import ragstore
from ragstore.app import Ragstore

README = Path(__file__).parents[2] / "README.md"


def python_in_readme() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_code_of_the_readme_runs(store: Ragstore, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    manuals = tmp_path / "manuals"
    manuals.mkdir()
    (manuals / "pump.md").write_text("# Pump\n\nTo replace the filter, open the lid and lift it out.")
    monkeypatch.setattr(ragstore, "open", lambda: ragstore.app.open_ragstore(store.settings))
    names = {
        "documents": [Document(text="The filter is behind the lid.", doc_id="a")],
        "VectorStoreIndex": VectorStoreIndex,
        "load_index_from_storage": load_index_from_storage,
        "ragstore": ragstore,
    }
    blocks = python_in_readme()
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert "lift it out" in capsys.readouterr().out
    assert [hit.text for hit in store.query("filter", collection="docs", top_k=1)] == ["The filter is behind the lid."]
