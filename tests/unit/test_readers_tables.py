from __future__ import annotations

import pytest

from ragstore.sources.raw import PART_SEPARATOR, Choices
from ragstore.sources.readers import ReadText, read


def records_of(read_text: ReadText) -> list[str]:
    assert read_text.shape == "records"
    ends = [*(start - len(PART_SEPARATOR) for start in read_text.part_starts[1:]), len(read_text.text)]
    return [read_text.text[start:end] for start, end in zip(read_text.part_starts, ends, strict=True)]


def records(data: str, name: str = "a.csv", *, header: str = "auto") -> list[str]:
    return records_of(read(data.encode(), name, Choices(table_header=header)))


def test_each_row_stands_for_itself_and_says_its_number() -> None:
    data = "name,born in,note\nAda,London,\nAlan,Maida Vale,a, b\n"
    assert records(data) == [
        "name: Ada\nborn in: London",
        "name: Alan\nborn in: Maida Vale\nnote: a\ncolumn 4: b",
    ]
    assert read(data.encode(), "a.csv").places == [{"row": 2}, {"row": 3}]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    rows = [["name", "price"], ["bread, white", "1.20"], ["milk", "0.99"]]
    text = "\n".join(delimiter.join(f'"{c}"' if delimiter in c else c for c in row) for row in rows)
    assert records(text, "a.tsv" if delimiter == "\t" else "a.csv") == [
        "name: bread, white\nprice: 1.20",
        "name: milk\nprice: 0.99",
    ]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("Name;Preis\nBrot;1,20\nMilch;0,99\n", ["Name: Brot\nPreis: 1,20", "Name: Milch\nPreis: 0,99"]),
        ("1,20;3\n0,99;5\n", ["column 1: 1,20\ncolumn 2: 3", "column 1: 0,99\ncolumn 2: 5"]),
        ("sep=;\nName;Ort\nAnn;Bern\n", ["Name: Ann\nOrt: Bern"]),
        ('SEP=|\r\nName|Ort\r\n"a|b"|Bern\r\n', ["Name: a|b\nOrt: Bern"]),
        ('name, note\nAnn, "a, b"\n', ["name: Ann\nnote: a, b"]),
        ('text\n"a, b"\n"c, d, e"\n', ["text: a, b", "text: c, d, e"]),
    ],
)
def test_decimal_commas_declared_delimiters_and_spaces_after_them(data: str, shown: list[str]) -> None:
    assert records(data) == shown


def test_one_column_of_prose_is_not_cut_at_its_commas() -> None:
    lines = ["Good, cheap, fast.", "Bad", "It was slow, and then it broke; really."]
    assert records("\n".join(["review", *lines])) == [f"review: {line}" for line in lines]
    assert records("\n".join(lines)) == lines
    letter = ["Dear all, I write", "to you, about", "this, matter of mine"]
    assert records("\n".join(letter)) == letter


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("Country,2019,2020\nCH,10,20\n", ["Country: CH\n2019: 10\n2020: 20"]),
        ("Country,2019,2020\nCH,1000,2000\nDE,3000,4\n", ["Country: CH\n2019: 1000\n2020: 2000",
                                                         "Country: DE\n2019: 3000\n2020: 4"]),
        ("Name,2019,2020,2019\nA,1,2,3\n", ["Name: A\n2019: 1\n2020: 2\n2019 (2): 3"]),
        ("Metric,50%,90%\nlatency,12,40\n", ["Metric: latency\n50%: 12\n90%: 40"]),
        ("Shop,1,2,3\nN,10,20,5\nS,7,7,9\n", ["Shop: N\n1: 10\n2: 20\n3: 5", "Shop: S\n1: 7\n2: 7\n3: 9"]),
        ("<18,18-25,65+\n5,6,7\n8,9,10\n", ["<18: 5\n18-25: 6\n65+: 7", "<18: 8\n18-25: 9\n65+: 10"]),
        ("id,value,value\n1,a,b\n", ["id: 1\nvalue: a\nvalue (2): b"]),
        ("Phone,Phone,Phone (2)\n1,2,3\n", ["Phone: 1\nPhone (2): 2\nPhone (2) (2): 3"]),
        (",name,,price\n7,x,,3\n", ["column 1: 7\nname: x\nprice: 3"]),
        ("#id,name\n1,x\n2,y\n", ["id: 1\nname: x", "id: 2\nname: y"]),
        ("name,price\nbread,1,x\nmilk,2,y\n", ["name: bread\nprice: 1\ncolumn 3: x", "name: milk\nprice: 2\ncolumn 3: y"]),
        ("date,open\n2024-01-01,5.5\n2024-01-02,5.6\n", ["date: 2024-01-01\nopen: 5.5", "date: 2024-01-02\nopen: 5.6"]),
        ("id\n1\n2\n", ["id: 1", "id: 2"]),
    ],
)  # fmt: skip
def test_names_of_columns_may_be_numbers_repeated_or_missing(data: str, shown: list[str]) -> None:
    read_text = read(data.encode(), "a.csv")
    assert records_of(read_text) == shown


@pytest.mark.parametrize(
    "data",
    ["1,2\n3,4\n", "Ann,2019,2020\nBob,2015,2018\n", "Ann,yes\nBob,no\nCleo,yes\n", "2024-01-01,5\n2024-01-02,6\n",
     "a@x.ch,red\nb@x.ch,blue\n", "1,2,3\n4,5,6\n"],
)  # fmt: skip
def test_a_table_without_a_header_gets_numbered_columns(data: str) -> None:
    rows = [line.split(",") for line in data.splitlines()]
    assert records(data) == ["\n".join(f"column {i}: {cell}" for i, cell in enumerate(row, 1)) for row in rows]


def test_words_above_words_are_a_guessed_header_and_a_choice_decides_otherwise() -> None:
    data = "Ann,Bern\nBob,Basel\n"
    assert records(data) == ["Ann: Bob\nBern: Basel"]
    assert read(data.encode(), "a.csv").notes == {"header_guessed": 1}
    chosen = read(data.encode(), "a.csv", Choices(table_header="none"))
    assert records_of(chosen) == ["column 1: Ann\ncolumn 2: Bern", "column 1: Bob\ncolumn 2: Basel"]
    assert chosen.notes == {}
    assert records("1,2\n3,4\n", header="first") == ["1: 3\n2: 4"]
    assert read(b"name,price\nbread,1\n", "a.csv").notes == {}


@pytest.mark.parametrize(
    "above",
    [
        "Report created 2024-01-02\nDepartment: Sales\n\n",
        "Report created 2024-01-02\nDepartment: Sales\n",
        "# Report created 2024-01-02\n# Department: Sales\n",
        "Report created 2024-01-02,\nDepartment: Sales,\n",
        "Report created 2024-01-02,,\n,,\nDepartment: Sales,,\n,,\n",
    ],
)
def test_lines_above_a_table_are_kept_apart_and_its_header_is_found(above: str) -> None:
    found = records(above + "name,amount\nAnn,5\nBob,6\n")
    assert found[-2:] == ["name: Ann\namount: 5", "name: Bob\namount: 6"]
    assert "\n".join(found[:-2]) == "Report created 2024-01-02\nDepartment: Sales"


@pytest.mark.parametrize("between", ["", "\n", ";;;;\n"])
def test_a_bank_statement_has_its_head_and_its_rows(between: str) -> None:
    data = f"Konto;DE12 3456\nVon;01.01.2024\n{between}Buchung;Text;Wer;Betrag;Saldo\n"
    rows = "02.01.2024;Miete;Meier;-100,00;5,00\n03.01.2024;Lohn;AG;100,00;105,00\n"
    assert records(data + rows) == [
        "Konto DE12 3456\nVon 01.01.2024",
        "Buchung: 02.01.2024\nText: Miete\nWer: Meier\nBetrag: -100,00\nSaldo: 5,00",
        "Buchung: 03.01.2024\nText: Lohn\nWer: AG\nBetrag: 100,00\nSaldo: 105,00",
    ]


def test_tables_after_empty_lines_have_their_own_headers() -> None:
    data = "Costs of all\n\na,b\n1,2\n\nBy person\n\nx,y,z\n3,4,5\n6,7,8\n"
    read_text = read(data.encode(), "a.csv")
    assert records_of(read_text) == ["Costs of all", "a: 1\nb: 2", "By person", "x: 3\ny: 4\nz: 5", "x: 6\ny: 7\nz: 8"]
    assert [place["row"] for place in read_text.places] == [1, 4, 6, 9, 10]


def test_empty_lines_between_rows_do_not_end_a_table() -> None:
    assert records("a,b\n1,2\n\n3,4\n\n5,6\n7,8\n") == ["a: 1\nb: 2", "a: 3\nb: 4", "a: 5\nb: 6", "a: 7\nb: 8"]
    assert records("name,amount\n\nAnn,5\nBob,6\n") == ["name: Ann\namount: 5", "name: Bob\namount: 6"]


def test_line_breaks_indentation_and_huge_values_stay_inside_their_record() -> None:
    huge = "word " * 60_000
    assert records(f'id,text\na,"one\n\n\n  two"\nb,"    x = 1\n    y = 2"\nc,"{huge}"\n') == [
        "id: a\ntext: one\n\n\n  two",
        "id: b\ntext:\n    x = 1\n    y = 2",
        f"id: c\ntext: {huge.strip()}",
    ]


def test_a_lonely_header_is_still_text() -> None:
    assert records("name,price\n") == ["name, price"]


def test_nul_bytes_do_not_end_the_table() -> None:
    assert records("a,b\nx\0,y\nz,w\n") == ["a: x\nb: y", "a: z\nb: w"]


def test_no_cell_of_a_long_table_is_lost() -> None:
    rows = [[f"n{i}", f"{i}", f"word {i}"] for i in range(3000)]
    data = "name,count,note\n" + "".join(",".join(row) + "\n" for row in rows)
    assert records(data) == [f"name: {a}\ncount: {b}\nnote: {c}" for a, b, c in rows]


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ("Customer,Ann\nAddress,Bern\nTotal,12.5\n", ["Customer: Ann", "Address: Bern", "Total: 12.5"]),
        ("Customer:,Ann\nTown:,Bern\nLand:,CH\n", ["Customer: Ann", "Town: Bern", "Land: CH"]),
        ("Part,Owner\nPump,Ann\nValve,Bob\n", ["Part: Pump\nOwner: Ann", "Part: Valve\nOwner: Bob"]),
        (
            "Quarter,North,South\nName,Sum,Tax\nAnn,3,1\nBob,5,2\n",
            ["Quarter North South", "Name: Ann\nSum: 3\nTax: 1", "Name: Bob\nSum: 5\nTax: 2"],
        ),
    ],
)
def test_labels_with_values_of_all_kinds_are_a_form_and_no_table(rows: str, shown: list[str]) -> None:
    assert records(rows) == shown
