"""How often each mode of search finds the document that answers, on the manuals and questions of ``manuals``.

recall@10 is the share of questions with a chunk of a right document among ten hits, MRR the mean of 1 / its place.
Against servers of ``RAGSTORE_HOME`` or the usual URLs, in a collection ``manuals_MODEL`` that it fills and leaves there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import ragstore
from ragstore.app import Ragstore
from ragstore.postgres.search import Mode
from ragstore.settings import Settings

KINDS = ("terms", "natural")


def measure(store: Ragstore, collection: str, pages: Path, asked: Sequence[dict[str, Any]], mode: Mode) -> str:
    figures = []
    for kind in KINDS:
        places = []
        for one in asked:
            if one["kind"] != kind:
                continue
            right = {str(pages / name) for name in one["files"]}
            hits = store.query(one["text"], collection=collection, mode=mode, top_k=10)
            places.append(next((place for place, hit in enumerate(hits, 1) if hit.document_id in right), 0))
        recall = sum(place > 0 for place in places) / len(places)
        figures.append(f"{kind} {recall:.3f}/{sum(1 / place for place in places if place) / len(places):.3f}")
    return "  ".join(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="that tests.benchmarks.manuals has filled")
    parser.add_argument("--model", default="wordllama")
    parser.add_argument("--weights", type=float, nargs="*", default=[], help="dense weights to try too")
    arguments = parser.parse_args()
    pages = (arguments.folder / "pages").resolve()
    asked = json.loads((arguments.folder / "questions.json").read_text(encoding="utf-8"))
    collection = f"manuals_{arguments.model}"
    with ragstore.open(Settings(model=arguments.model)) as store:
        store.ingest(pages, collection=collection)
        for mode in get_args(Mode):
            print(f"{mode:8}", measure(store, collection, pages, asked, mode), flush=True)
        for weight in arguments.weights:
            store.settings = store.settings.model_copy(update={"dense_weight": weight})
            print(f"hybrid {weight}", measure(store, collection, pages, asked, "hybrid"), flush=True)


if __name__ == "__main__":
    main()
