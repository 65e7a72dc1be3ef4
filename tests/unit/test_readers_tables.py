from __future__ import annotations

import pytest

from ragstore.sources.readers import read


def records(data: str, name: str = "a.csv") -> list[str]:
    read_text = read(data.encode(), name)
    assert read_text.shape == "records"
    return read_text.text.split("\n\n")


def test_each_row_stands_for_itself() -> None:
    assert records("name,born in,note\nAda,London,\nAlan,Maida Vale,a, b\n") == [
        "name: Ada\nborn in: London",
        "name: Alan\nborn in: Maida Vale\nnote: a\ncolumn 4: b",
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    rows = [["name", "price"], ["bread, white", "1.20"], ["milk", "0.99"]]
    text = "\n".join(delimiter.join(f'"{c}"' if delimiter in c else c for c in row) for row in rows)
    assert records(text, "a.tsv" if delimiter == "\t" else "a.csv") == [
        "name: bread, white\nprice: 1.20",
        "name: milk\nprice: 0.99",
    ]


def test_a_table_without_a_header_gets_numbered_columns() -> None:
    assert records("1,2\n3,4\n") == ["column 1: 1\ncolumn 2: 2", "column 1: 3\ncolumn 2: 4"]


def test_line_breaks_and_huge_values_stay_inside_their_record() -> None:
    huge = "word " * 60_000
    assert records(f'id,text\na,"one\n\n\ntwo"\nb,"{huge}"\n') == [
        "id: a\ntext: one\ntwo",
        f"id: b\ntext: {huge.strip()}",
    ]


def test_a_lonely_header_is_still_text() -> None:
    assert records("name,price\n") == ["name, price"]


def test_nul_bytes_do_not_end_the_table() -> None:
    assert records("a,b\nx\0,y\nz,w\n") == ["a: x\nb: y", "a: z\nb: w"]
