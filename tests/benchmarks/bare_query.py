"""A bare script: psycopg2 and WordLlama, one question, one statement. Run by its path, not imported."""

import os
import sys
from pathlib import Path

import psycopg2
import wordllama
from wordllama import WordLlama

table, question = sys.argv[1:]
url = os.environ["RAGSTORE_POSTGRES_URL"]
model = WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
vector = str(model.embed([question], norm=True)[0].tolist())
with psycopg2.connect(url) as connection, connection.cursor() as cursor:
    cursor.execute(
        f"SELECT text, metadata_, 1 - (embedding <=> %(vector)s) FROM {table} "
        "ORDER BY embedding <=> %(vector)s LIMIT 10",
        {"vector": vector},
    )
    for text, _metadata, score in cursor.fetchall():
        sys.stdout.write(f"{score} {text}\n")
