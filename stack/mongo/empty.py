"""Drops from MongoDB what `ragstore repair` rebuilds from PostgreSQL: bodies, entries, index structs."""

from __future__ import annotations

import os
from pathlib import Path

from pymongo import MongoClient

REBUILT = ("/data", "/ref_doc_info", "/metadata")


def main() -> None:
    password = Path("/run/secrets/ragstore_mongo_password").read_text(encoding="utf-8").strip()
    with MongoClient(os.environ["RAGSTORE_MONGO_URL"], password=password) as client:
        database = client[os.environ.get("RAGSTORE_MONGO_DATABASE") or "ragstore"]
        for name in database.list_collection_names():
            if name.endswith(REBUILT):
                database.drop_collection(name)


if __name__ == "__main__":
    main()
