from __future__ import annotations

import json
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragstore.model.filters import Condition, Group
from ragstore.postgres.filters import to_sql
from tests.support.filter_oracle import matches

pytestmark = pytest.mark.on_both

# Few of each, so that rows and filters often meet; each is there because it breaks something somewhere.
KEYS = [
    "k",
    "",
    "key two",
    "o'key",
    'q"key',
    "%s",
    "%(k)s",
    ":k",
    "\\",
    "ключ",
    "{}",
    "$.k",
    "0",
    "user_metadata",
    "€𝄞",
    "document_id",
    "doc_id",
    "ref_doc_id",
]
TEXTS = [
    "", "a", "A", "ab", "abc", "B", "b", "07001", "7001", "true", "null", "[]", "x' OR '1'='1", "O'Brien", "100%", "%s",
    "::text", "a\\b", "\\", '"', "'", "ä", "Ä", "İ", "Σς", "ß", "€", "\uffff", "\U0001f600", "\x01", "a\x01", "a\nb", "NaN",
]  # fmt: skip
NUMBERS = [
    0, -0.0, 1, 1.0, -1, 7001, 7001.0, 0.1, 0.30000000000000004, 1e22, 1e23, 10**23, 2**53, 2**53 + 1, 2.0**53, -(2**63),
    2**64, 10**400, 1e308, 5e-324, 1e-7,
]  # fmt: skip
UNSTORABLE = ["\0", "a\0", "a\0b", "\0a", "\ud800", "a\udfffb", float("nan"), float("inf"), float("-inf")]

storable_scalars = st.one_of(
    st.sampled_from([*TEXTS, *NUMBERS, True, False, None]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(storable_scalars, st.sampled_from(UNSTORABLE))
stored_values = st.one_of(
    storable_scalars,
    st.lists(storable_scalars, max_size=4),
    st.recursive(
        storable_scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        max_leaves=5,
    ),
)
keys = st.sampled_from(KEYS)
filter_keys = st.one_of(keys, st.just("k"), st.sampled_from(["absent", "\0", "\ud800"]))
numbers_and_texts = st.one_of(
    st.sampled_from([*TEXTS, *NUMBERS, *UNSTORABLE]), st.floats(), st.integers(), st.text(max_size=4)
)
texts = st.one_of(st.sampled_from([*TEXTS, "\0", "a\0", "\ud800"]), st.text(max_size=3))

conditions = st.one_of(
    st.builds(Condition, filter_keys, st.sampled_from(["==", "!=", "contains"]), scalars),
    st.builds(Condition, filter_keys, st.sampled_from([">", ">=", "<", "<="]), numbers_and_texts),
    st.builds(Condition, filter_keys, st.sampled_from(["in", "nin", "any", "all"]), st.lists(scalars, max_size=3)),
    st.builds(Condition, filter_keys, st.sampled_from(["text_match", "text_match_insensitive"]), texts),
    st.builds(Condition, filter_keys, st.just("is_empty")),
)
filters = st.recursive(
    conditions,
    lambda inner: st.builds(Group, st.sampled_from(["and", "or", "not"]), st.lists(inner, max_size=3)),
    max_leaves=5,
)
metadata_rows = st.lists(
    st.dictionaries(st.one_of(st.just("k"), keys), stored_values, max_size=4), min_size=1, max_size=25
)


document_ids = st.one_of(st.none(), st.sampled_from([text for text in TEXTS if text]))


@pytest.fixture
def indexed_cursor(postgres_database: str) -> Any:
    connection = psycopg2.connect(postgres_database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE rows (position integer, user_metadata jsonb NOT NULL, document_id text)")
        cursor.execute("CREATE INDEX ON rows USING gin (user_metadata jsonb_path_ops)")
        cursor.execute("CREATE INDEX ON rows (document_id)")
        # So that every filter the index can serve is answered by it, and the others by a scan.
        cursor.execute("SET enable_seqscan = off")
        yield cursor
    connection.close()


def store(cursor: Any, rows: list[dict[str, Any]], documents: list[str | None] | None = None) -> None:
    cursor.execute("TRUNCATE rows")
    cursor.execute(
        "INSERT INTO rows SELECT n - 1, m, d FROM unnest(%s::jsonb[], %s::text[]) WITH ORDINALITY AS r (m, d, n)",
        (
            [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows],
            documents or [None] * len(rows),
        ),
    )


def selected(cursor: Any, tree: Condition | Group) -> list[int]:
    condition, params = to_sql(tree)
    cursor.execute(f"SELECT position FROM rows WHERE {condition} ORDER BY position", params)
    return [position for (position,) in cursor.fetchall()]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=metadata_rows, filters=st.lists(filters, min_size=1, max_size=12), data=st.data())
def test_postgresql_selects_exactly_the_rows_that_plain_python_selects(
    indexed_cursor: Any, rows: list[dict[str, Any]], filters: list[Condition | Group], data: st.DataObject
) -> None:
    documents = [data.draw(document_ids) for _ in rows]
    store(indexed_cursor, rows, documents)
    for tree in filters:
        expected = [i for i, row in enumerate(rows) if matches(tree, row, documents[i])]
        assert selected(indexed_cursor, tree) == expected, tree


ORDERED = [*TEXTS, *NUMBERS, *UNSTORABLE, 10**5000, -(10**5000)]
LISTS = [[], *([value, "absent"] for value in ORDERED), [1, True], [None]]
WANTED: dict[str, list[Any]] = {
    **{operator: [*ORDERED, True, False, None] for operator in ["==", "!=", "contains"]},
    **dict.fromkeys([">", ">=", "<", "<="], ORDERED),
    **dict.fromkeys(["in", "nin", "any", "all"], LISTS),
    **{operator: [*TEXTS, "\0", "\ud800"] for operator in ["text_match", "text_match_insensitive"]},
    "is_empty": [None],
}


@pytest.mark.parametrize("operator", WANTED)
def test_every_pair_of_values_is_compared_as_in_python(indexed_cursor: Any, operator: Any) -> None:
    lists = [[], ["a"], ["absent", "a"], [1], [1.0, True], [None], [True], [["a"]], ["a", "B", 7001]]
    rows = [{"k": value} for value in [*TEXTS, *NUMBERS, True, False, None, *lists, {}, {"k": 1}]] + [{}]
    store(indexed_cursor, rows)
    for wanted in WANTED[operator]:
        tree = Condition("k", operator, wanted)
        expected = [position for position, row in enumerate(rows) if matches(tree, row)]
        assert selected(indexed_cursor, tree) == expected, tree


@pytest.mark.parametrize("operator", WANTED)
def test_a_documents_id_and_the_users_own_value_are_compared_as_in_python(indexed_cursor: Any, operator: Any) -> None:
    own: list[Any] = [*TEXTS, 7001, None, ["a", "B"]]
    rows: list[dict[str, Any]] = [*({"doc_id": value} for value in own), *[{} for _ in TEXTS]]
    documents = [*(["ab"] * 9 + [None] * len(own))[: len(own)], *[text or None for text in TEXTS]]
    store(indexed_cursor, rows, documents)
    for wanted in WANTED[operator]:
        tree = Condition("doc_id", operator, wanted)
        expected = [i for i, row in enumerate(rows) if matches(tree, row, documents[i])]
        assert selected(indexed_cursor, tree) == expected, tree


@pytest.mark.parametrize("operator", ["in", "nin"])
def test_a_list_too_long_for_the_index_selects_the_same_rows(indexed_cursor: Any, operator: Any) -> None:
    rows: list[dict[str, Any]] = [{"k": value} for value in [0, 1.0, "1", True, None, [1], 1500, "1500"]] + [{}]
    store(indexed_cursor, rows)
    short = Condition("k", operator, [1, 1500, "1500", True])
    long = Condition("k", operator, [*[f"absent {n}" for n in range(2000)], 1, 1500, "1500", True])
    expected = [position for position, row in enumerate(rows) if matches(short, row)]
    assert selected(indexed_cursor, short) == selected(indexed_cursor, long) == expected
