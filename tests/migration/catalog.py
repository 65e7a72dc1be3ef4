"""The catalog of a migrated PostgreSQL database as text, for comparing and for review.

With operator classes, WITH options and functions, as PostgreSQL itself shows them.
``python -m tests.migration.catalog`` rewrites the expected text after a migration.
"""

from __future__ import annotations

from pathlib import Path

import psycopg2

from ragstore.model.collection import Chunking, EmbeddingSpace, TableForm
from ragstore.postgres.collections import create_collection
from ragstore.postgres.pool import PostgresPool
from tests.support import servers
from tests.support.internals import trees_above
from tests.support.segments import merge_at_rest, seal

EXPECTED = Path(__file__).with_name("expected_catalog.txt")

_QUERIES = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
               CASE WHEN a.attnotnull THEN 'not null' ELSE 'null' END,
               coalesce(a.attidentity::text, '') || coalesce(a.attgenerated::text, ''),
               coalesce(pg_get_expr(d.adbin, d.adrelid), '-')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE n.nspname = 'ragstore' AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY c.relname, a.attnum""",
    "indexes": """
        SELECT pg_get_indexdef(i.indexrelid), CASE WHEN i.indisvalid THEN 'valid' ELSE 'INVALID' END
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'ragstore' ORDER BY c.relname""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(k.oid)
        FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
        WHERE n.nspname = 'ragstore' AND contype <> 'n' ORDER BY 1, 2""",
    "functions": """
        SELECT p.proname, pg_get_function_identity_arguments(p.oid),
               CASE WHEN p.prosecdef THEN 'security definer' ELSE 'security invoker' END,
               coalesce(array_to_string(p.proconfig, ' '), '-'), md5(p.prosrc)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'ragstore' ORDER BY 1, 2""",
    "sequences": """
        SELECT sequencename, data_type::text, start_value::text, increment_by::text
        FROM pg_sequences WHERE schemaname = 'ragstore' ORDER BY 1""",
    "extensions": "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1",
}


def catalog_of(url: str, schema: str = "ragstore") -> str:
    """The ledger and one collection with its indexes, as PostgreSQL describes them."""
    lines: list[str] = []
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            # Else the names would depend on that of the user, whose own schema is searched first.
            cursor.execute("SET search_path = public")
            for title, query in _QUERIES.items():
                cursor.execute(query.replace("'ragstore'", f"'{schema}'"))
                lines += ["", f"[{title}]", *(" | ".join(row) for row in cursor.fetchall())]
    finally:
        connection.close()
    return "\n".join(lines).strip() + "\n"


def add_a_collection(url: str) -> None:
    """A collection named ``example`` with a segment that has a tree, so that both appear in the catalog."""
    pool = PostgresPool(url)
    try:
        collection = create_collection(
            pool,
            "example",
            space=EmbeddingSpace("external", 8),
            chunking=Chunking(256, 32),
            text_search_config="english",
            form=TableForm(filter_keys=("year", "o'key")),
        )
        with pool.transaction() as cursor:
            cursor.execute(
                "INSERT INTO ragstore.data_example (text, metadata_, node_id, embedding, ordinal, user_metadata) "
                "SELECT '', '{}', 'n' || n, ('[1' || repeat(',0', 6) || ',' || n || ']')::vector, 0, '{}' "
                "FROM generate_series(1, 9) AS n",
            )
        with trees_above(8):
            assert seal(pool, collection)
            merge_at_rest(pool, collection)
    finally:
        pool.close()


def main() -> None:
    servers.choose()
    try:
        found = servers.running()
        with servers.migrated_template(found) as template, servers.cloned_database(found, template) as url:
            add_a_collection(url)
            EXPECTED.write_text(catalog_of(url), encoding="utf-8")
    finally:
        servers.stop()
    print(f"wrote {EXPECTED}")


if __name__ == "__main__":
    main()
