"""A repair in a process of its own, in small steps: ``python -m tests.crash.repair_child``."""

from __future__ import annotations

import json

import ragstore
from ragstore.audit import documents, nodes
from ragstore.postgres import direct


def main() -> None:
    # Small, so that little drift makes several steps and a process can die between them.
    nodes._AT_ONCE = 7
    documents._AT_ONCE = 2
    direct._IDS_PER_ITEM = 3
    with ragstore.open() as rs:
        print(json.dumps(rs.repair().as_dict()))


if __name__ == "__main__":
    main()
