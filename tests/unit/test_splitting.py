from __future__ import annotations

import base64
import random
import re
import statistics
import subprocess
import sys
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragstore.ingest.splitting import count_tokens, split
from ragstore.model.chunk import Chunk
from ragstore.model.collection import Chunking
from ragstore.sources.raw import PART_SEPARATOR, Shape
from ragstore.sources.readers import ReadText, read
from tests.support.files import a_docx

CHUNKING = Chunking(chunk_size=64, chunk_overlap=16)
WORDS = "store index query vector node ledger stage publish retire lease grace filter rank hit source page".split()


def a_sentence(rng: random.Random) -> str:
    words = rng.choices(WORDS, k=rng.randint(4, 20))
    return " ".join([words[0].capitalize(), *words[1:]]) + rng.choice("..?!")


def a_document(seed: int, n_sentences: int = 300) -> list[str]:
    rng = random.Random(seed)
    return [a_sentence(rng) + rng.choice([" ", " ", " ", "\n\n"]) for _ in range(n_sentences)]


def chunks_of(text: str, shape: Shape = "prose", chunking: Chunking = CHUNKING) -> list[Chunk]:
    return split(ReadText(text, shape), chunking)


def of_records(records: list[str], chunking: Chunking = CHUNKING) -> list[Chunk]:
    starts = list(accumulate((len(record) + len(PART_SEPARATOR) for record in records[:-1]), initial=0))
    return split(ReadText(PART_SEPARATOR.join(records), "records", starts), chunking)


def assert_spans_fit(text: str, chunks: list[Chunk]) -> None:
    covered = 0
    for before, chunk in zip([None, *chunks], chunks, strict=False):
        own = chunk.text[chunk.n_repeated :]
        assert text[chunk.start_char : chunk.end_char] == own != ""
        # White space around it goes, but for the indentation of the first of several lines.
        indent = own[: len(own) - len(own.lstrip())]
        assert own == indent + own.strip()
        assert not indent or ("\n" in own and not indent.strip(" \t") and text[: chunk.start_char][-1:] in {"", "\n"})
        assert not text[covered : chunk.start_char].strip(), "words between two chunks are lost"
        if before:
            assert chunk.start_char > before.start_char
            assert chunk.end_char > before.end_char
        covered = max(covered, chunk.end_char)
    assert not text[covered:].strip(), "words at the end are lost"


pieces = st.sampled_from(
    ["word", "Sentence.", " ", "\n", "\n\n", "# Title\n", "## Part\n", "```\n", "~~~", "===\n", "---\n", "a" * 90, "日本。",
     "x, y; z", "- item\n", "1. ", "| a | b |\n", "| - | - |\n", "|  |  |\n", "|---|\n", "é", "\U0001f600", "\t", "key: value\n\n", "?", "\u2028"]
)  # fmt: skip


def test_every_span_is_its_text_in_records_of_any_lines() -> None:
    @given(
        st.lists(st.lists(pieces, min_size=1, max_size=12).map("".join), min_size=1, max_size=12), st.integers(1, 40)
    )
    @settings(max_examples=200, deadline=None)
    def check(records: list[str], size: int) -> None:
        chunks = of_records(records, Chunking(size, 0))
        assert_spans_fit(PART_SEPARATOR.join(records), chunks)
        assert all(count_tokens(chunk.text) <= size and not chunk.n_repeated for chunk in chunks)

    check()


@given(
    st.lists(pieces, max_size=120).map("".join),
    st.sampled_from(["prose", "markdown", "records"]),
    st.integers(1, 40),
    st.integers(0, 40),
)
@example("| a | b |\n| a | b |\n", "prose", 2, 1)
@settings(max_examples=300, deadline=None)
def test_every_span_is_its_text_and_no_word_is_lost(text: str, shape: Shape, size: int, overlap: int) -> None:
    chunks = chunks_of(text, shape, Chunking(size, min(overlap, size)))
    assert_spans_fit(text, chunks)
    assert all(count_tokens(chunk.text) <= size for chunk in chunks)


@given(st.text(max_size=400), st.sampled_from(["prose", "markdown", "records"]))
@settings(deadline=None)
def test_any_text_is_cut_without_loss(text: str, shape: Shape) -> None:
    assert_spans_fit(text, chunks_of(text, shape, Chunking(8, 2)))


def test_a_short_text_is_one_chunk() -> None:
    assert chunks_of("  One. Two.\n") == [Chunk("One. Two.", 2, 11)]


def test_chunks_end_where_paragraphs_or_sentences_end() -> None:
    chunks = chunks_of("".join(a_document(1)))
    assert all(chunk.text[-1] in ".?!" for chunk in chunks)
    assert all(chunk.text[0].isupper() for chunk in chunks)


def test_a_chunk_repeats_the_last_sentences_of_the_one_before() -> None:
    text = "".join(a_document(2))
    chunks = chunks_of(text)
    repeated = [count_tokens(text[b.start_char : a.end_char]) for a, b in pairwise(chunks)]
    assert max(repeated) <= CHUNKING.chunk_overlap
    assert sum(n > 0 for n in repeated) > len(repeated) / 2
    without = chunks_of(text, chunking=Chunking(64, 0))
    assert all(a.end_char <= b.start_char for a, b in pairwise(without))


@pytest.mark.parametrize("change", ["edit", "insert", "remove"])
def test_a_changed_sentence_changes_few_chunks(change: str) -> None:
    n_changed = []
    for seed in range(40):
        rng = random.Random(seed)
        before = a_document(seed)
        after = list(before)
        at = rng.randrange(5, 250)
        match change:
            case "edit":
                after[at] = "Quite " + after[at]
            case "insert":
                after.insert(at, a_sentence(rng) + " ")
            case "remove":
                del after[at]
        known = {chunk.chunk_hash for chunk in chunks_of("".join(before))}
        n_changed.append(sum(chunk.chunk_hash not in known for chunk in chunks_of("".join(after))))
    # A splitter that fills chunk after chunk gives a mean of 5 and more when a sentence comes or goes.
    assert statistics.mean(n_changed) <= (2.0 if change == "edit" else 3.0)
    assert max(n_changed) <= 15


def test_headings_are_the_path_of_the_section_outermost_first() -> None:
    text = "Before.\n\n# A\n\nIn a.\n\n### C ###\n\nIn c.\n\n## [B](#b) `x`\n\nIn b.\n\nD\n=\n\nIn d.\n"
    assert [(chunk.headings, chunk.text) for chunk in chunks_of(text, "markdown")] == [
        ((), "Before."),
        (("A",), "# A\n\nIn a."),
        (("A", "C"), "### C ###\n\nIn c."),
        (("A", "B x"), "## [B](#b) `x`\n\nIn b."),
        (("D",), "D\n=\n\nIn d."),
    ]


def test_a_heading_with_nothing_below_joins_the_deeper_one_and_else_stands_alone() -> None:
    assert [
        (chunk.headings, chunk.text) for chunk in chunks_of("# A\n\n## B\n\nText.\n\n## C\n\n# D\n", "markdown")
    ] == [
        (("A", "B"), "# A\n\n## B\n\nText."),
        (("A", "C"), "## C"),
        (("D",), "# D"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```sh\n# no heading\n```\n",
        "~~~\n# no heading\n```\n# none either\n~~~\n",
        "````\n```\n# no heading\n````\n",
        "  ```\n  # no heading\n  ```\n",
        "```\n# never closed\n",
        "    # indented code\n",
        "#hashtag\n",
        "a | b\n--- | ---\n",
        "- item\n---\n",
        "Two lines\nof a paragraph\n---\n",
    ],
)
def test_what_only_looks_like_a_heading_is_none(text: str) -> None:
    (chunk,) = chunks_of("# Real\n\n" + text, "markdown")
    assert chunk.headings == ("Real",)


def test_a_heading_after_a_closed_fence_counts() -> None:
    chunks = chunks_of("```\n# no\n```\n# Yes\n\nText.", "markdown")
    assert [chunk.headings for chunk in chunks] == [(), ("Yes",)]


def test_a_code_block_is_rather_kept_whole() -> None:
    code = "```\n" + "\n\n".join(f"call_{i}(x)." for i in range(8)) + "\n```"
    rng = random.Random(3)
    text = "".join(a_sentence(rng) + "\n\n" for _ in range(4)) + code + "\n\n" + a_sentence(rng)
    assert any(code in chunk.text for chunk in chunks_of(text, "markdown", Chunking(100, 0)))


def test_a_renamed_heading_changes_only_the_chunk_that_has_it() -> None:
    def document(title: str, part: str) -> str:
        return f"# {title}\n\n" + "".join(a_document(4)) + f"\n\n## {part}\n\n" + "".join(a_document(5))

    known = {chunk.chunk_hash for chunk in chunks_of(document("Pump", "Care"), "markdown")}
    renamed = chunks_of(document("The pump of series X, second edition", "Care and cleaning"), "markdown")
    assert len(known) > 80
    assert sum(chunk.chunk_hash not in known for chunk in renamed) <= 6
    assert renamed[-1].headings == ("The pump of series X, second edition", "Care and cleaning")


def test_records_are_kept_whole_and_not_repeated() -> None:
    records = [f"name: Person {i}.\nnote: He said so. Then left." for i in range(60)]
    chunks = of_records(records)
    assert [record for chunk in chunks for record in chunk.text.split("\n\n")] == records


def test_an_empty_line_in_a_record_does_not_end_it() -> None:
    records = [f"name: Person {i}\n\n    indented {i}\n\nand more" for i in range(40)]
    chunks = of_records(records)
    assert all(chunk.text.startswith("name: ") and chunk.text.endswith("and more") for chunk in chunks)
    assert len(chunks) > 5


def test_a_long_record_is_rather_cut_at_its_empty_lines() -> None:
    groups = [f"order.sku: {i}\norder.name: some words here" for i in range(30)]
    chunks = of_records(["\n\n".join(groups)])
    assert all(chunk.text.startswith("order.sku") for chunk in chunks)


def a_table(n: int, *, names: str = "| name | price |", note: str = "") -> str:
    rows = "".join(f"| item{i} | Costs more. About {i}{note} |\n" for i in range(n))
    return f"{names}\n| --- | --- |\n{rows}"


def test_each_chunk_of_a_table_begins_with_its_header() -> None:
    text = "# Prices\n\nOf this year.\n\n" + a_table(200) + "\nAll without tax.\n"
    chunks = chunks_of(text, "markdown")
    assert_spans_fit(text, chunks)
    inside = [chunk for chunk in chunks if chunk.n_repeated]
    assert len(inside) == len(chunks) - 1 > 20
    assert all(chunk.text.startswith("| name | price |\n| --- | --- |\n| item") for chunk in inside)
    assert all(count_tokens(chunk.text) <= CHUNKING.chunk_size for chunk in chunks)
    assert all(chunk.embed_text == chunk.text for chunk in chunks)


@pytest.mark.parametrize("name", ["a.html", "headless.html", "a.md", "a.docx"])
def test_tables_of_every_format_keep_their_header(name: str) -> None:
    def rows(cell: str, head: str) -> str:
        values = [("name", "price"), *((f"item{i}", f"{i}") for i in range(200))]
        kinds = [head, *[cell] * 200]
        row = {"a.docx": "<w:tr>{}{}</w:tr>"}.get(name, "<tr>{}{}</tr>")
        return "".join(row.format(kind.format(a), kind.format(b)) for kind, (a, b) in zip(kinds, values, strict=True))

    match name:
        case "a.md":
            data = a_table(200).encode()
        case "a.docx":
            cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
            data = a_docx(f"<w:tbl>{rows(cell, cell)}</w:tbl>")
        case _:
            head = "<th>{}</th>" if name == "a.html" else "<td>{}</td>"
            data = f"<table>{rows('<td>{}</td>', head)}</table>".encode()
    chunks = split(read(data, name), CHUNKING)
    assert len(chunks) > 10
    assert all(re.search(r"\|\s*name\s*\|\s*price", chunk.text[:60]) for chunk in chunks)


def test_a_short_table_is_rather_kept_whole() -> None:
    text = "".join(a_document(7, 8)) + "\n\n" + a_table(3) + "\n" + "".join(a_document(8, 8))
    assert any(a_table(3).strip() in chunk.text for chunk in chunks_of(text, "markdown"))


def test_a_table_with_an_empty_header_repeats_the_names_below_it_but_no_values() -> None:
    named = chunks_of("|  |  |\n| --- | --- |\n| name | price |\n" + "| x | 1 |\n" * 99, "markdown")
    assert all("| name | price |" in chunk.text for chunk in named)
    valued = chunks_of("|  |  |\n| --- | --- |\n" + "".join(f"| x{i} | {i} |\n" for i in range(99)), "markdown")
    assert not any(chunk.n_repeated for chunk in valued)


def test_a_header_that_is_too_long_is_cut_and_leaves_room_for_rows() -> None:
    names = "| " + " | ".join(f"name{i}" for i in range(60)) + " |"
    rows = "".join("| " + " | ".join(f"v{i}" for i in range(60)) + " |\n" for _ in range(20))
    text = f"{names}\n{'| --- ' * 60}|\n{rows}"
    chunks = chunks_of(text, "markdown")
    assert_spans_fit(text, chunks)
    repeated = {chunk.text[: chunk.n_repeated] for chunk in chunks if chunk.n_repeated}
    assert len(repeated) == 1
    assert repeated.pop().startswith("| name0 | name1 |")
    assert all(count_tokens(chunk.text) <= CHUNKING.chunk_size for chunk in chunks)


@pytest.mark.parametrize("text", ["```\n" + a_table(50) + "```\n", "| a |\n" * 90, "|---|---|\n" * 90])
def test_what_only_looks_like_a_table_repeats_nothing(text: str) -> None:
    assert not any(chunk.n_repeated for chunk in chunks_of(text, "markdown"))


def test_a_row_put_into_a_table_changes_few_chunks() -> None:
    rows = a_table(400).splitlines(keepends=True)
    known = {chunk.chunk_hash for chunk in chunks_of("".join(rows), "markdown")}
    rows.insert(3, "| new | first |\n")
    assert sum(chunk.chunk_hash not in known for chunk in chunks_of("".join(rows), "markdown")) <= 4


@pytest.mark.parametrize("shape", ["prose", "markdown"])
def test_code_keeps_its_indentation_also_in_the_first_line_of_a_chunk(shape: Shape) -> None:
    lines = [f"    if value_{i}:\n        return {i}\n\n" for i in range(100)]
    text = "class A:\n" + "".join(lines)
    chunks = chunks_of(f"```py\n{text}```\n" if shape == "markdown" else text, shape)
    assert len(chunks) > 10
    assert all(chunk.text.startswith("    if ") for chunk in chunks[1:])


def test_a_long_table_is_cut_between_rows() -> None:
    rows = [f"| row {i} | value {i} |" for i in range(200)]
    chunks = chunks_of("\n".join(rows), "markdown", Chunking(64, 0))
    assert [row for chunk in chunks for row in chunk.text.split("\n")] == rows


def test_a_chunk_tells_the_page_it_begins_on() -> None:
    pages = ["First page. " * 30, "Second page. " * 30, "Third page."]
    starts = [0, len(pages[0]), len(pages[0]) + len(pages[1])]
    chunks = split(
        ReadText("".join(pages), part_starts=starts, places=[{"page": i + 1} for i in range(len(starts))]), CHUNKING
    )
    assert all(chunk.place["page"] == 1 + sum(start <= chunk.start_char for start in starts[1:]) for chunk in chunks)
    assert {chunk.place["page"] for chunk in chunks} >= {1, 2}


@pytest.mark.parametrize(
    "text",
    [
        "a" * 2_000_000,
        "日本語" * 200_000,
        "word " * 200_000,
        "x, " * 200_000,
        ". " * 300_000,
        "a\n " * 200_000,
        "=" * 2_000_000,
    ],
    ids=["one word", "no spaces", "no sentences", "clauses", "stops", "lines", "marks"],
)
@pytest.mark.timeout(60)  # what takes quadratic time would take days
def test_one_endless_line_takes_time_in_proportion(text: str) -> None:
    chunks = chunks_of(text, chunking=Chunking(256, 32))
    assert_spans_fit(text, chunks)
    assert max(count_tokens(chunk.text) for chunk in chunks) <= 256


def of_random_text(kind: str, rng: random.Random) -> str:
    match kind:
        case "base64":
            return base64.b64encode(rng.randbytes(120_000)).decode()
        case "hex":
            return rng.randbytes(80_000).hex()
        case "ideographs":
            return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(40_000))
        case "minified":
            parts = ["function(a){", "return b;", "var x=1,", "if(y)", "}", "foo.bar(", "z)", '"s t"', "0x1f"]
            return "".join(rng.choices(parts, k=20_000))
        case _:
            return " ".join(rng.choices(WORDS, k=20_000))


@pytest.mark.parametrize("kind", ["base64", "hex", "ideographs", "minified", "words"])
def test_a_character_before_text_without_sentences_changes_few_chunks(kind: str) -> None:
    n_changed = []
    for seed in range(5):
        rng = random.Random(seed)
        before = of_random_text(kind, rng)
        chunks = chunks_of(before, chunking=Chunking(256, 32))
        assert_spans_fit(before, chunks)
        assert len(chunks) > 60
        known = {chunk.chunk_hash for chunk in chunks}
        at = rng.choice([0, len(before) // 2])
        after = f"{before[:at]}x{' ' if kind == 'words' else ''}{before[at:]}"
        n_changed.append(sum(c.chunk_hash not in known for c in chunks_of(after, chunking=Chunking(256, 32))))
    assert statistics.mean(n_changed) <= 4
    assert max(n_changed) <= 10


def test_a_long_line_is_rather_cut_after_its_clauses() -> None:
    line = ", ".join(f"first {i} and second {i} and third {i}" for i in range(300))
    chunks = chunks_of(line, chunking=Chunking(64, 0))
    assert all(chunk.text.endswith(",") for chunk in chunks[:-1])


def test_splitting_imports_no_llama_index_also_for_long_sentences() -> None:
    script = (
        "import sys\n"
        "from ragstore.ingest.splitting import split\n"
        "from ragstore.model.collection import Chunking\n"
        "from ragstore.sources.readers import ReadText\n"
        "split(ReadText('# A\\n\\nOne sentence. ' * 100, 'markdown'), Chunking(64, 8))\n"
        "split(ReadText('word ' * 10_000), Chunking(64, 8))\n"
        "print('llama_index' in sys.modules, 'nltk' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split() == ["False", "False"]
