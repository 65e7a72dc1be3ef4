from __future__ import annotations

import psycopg2
import pytest

from ragstore.postgres.names import array

TEXTS = [
    "",
    "NULL",
    "null",
    None,
    "a,b",
    "{c}",
    '"',
    "\\",
    '\\"',
    " d ",
    "'",
    "%s",
    "ü\U0001f600",
    "e\nf\tg",
    "x' OR '1'='1",
]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("text", TEXTS),
        ("text", []),
        ("bigint", [1, -(2**63), None]),
        ("bool", [True, False]),
        ("jsonb", ['{"a": "\\""}']),
    ],
)
def test_values_arrive_as_they_were_meant(postgres_database: str, type_: str, values: list[str | int | None]) -> None:
    connection = psycopg2.connect(postgres_database)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT %s::{type_}[]::text[], %s::{type_}[]::text[]", (array(values), values))
        as_text, as_list = cursor.fetchone() or ((), None)
    connection.close()
    assert as_text == as_list


def test_a_text_of_a_class_of_its_own_is_a_text() -> None:
    class Name(str):
        __slots__ = ()

    assert array([Name('a"b')]) == '{"a\\"b"}'
