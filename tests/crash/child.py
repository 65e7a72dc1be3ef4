"""An ingest in a process of its own, with a parser of its own: ``python -m tests.crash.child ingest FOLDER``.

The settings come from the environment; a failpoint named there kills the process on its way.
"""

from __future__ import annotations

import json
import sys

import ragstore
from ragstore.mongo import nodes

COLLECTION = "docs"


def main() -> None:
    # Small, so that few nodes make several commands and a process can die between them.
    nodes.BATCH_NODES = nodes.BATCH_IDS = 7
    operation, *paths = sys.argv[1:]
    assert operation == "ingest"
    with ragstore.open() as rs:
        print(json.dumps(rs.ingest(*paths, collection=COLLECTION).as_dict()))


if __name__ == "__main__":
    main()
