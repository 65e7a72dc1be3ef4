from __future__ import annotations

import random
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragstore.ingest.splitting import CLAUSE, clauses, count_tokens, split
from ragstore.model.chunk import Chunk
from ragstore.model.collection import Chunking
from ragstore.sources.raw import Shape
from ragstore.sources.readers import ReadText

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


def assert_spans_fit(text: str, chunks: list[Chunk]) -> None:
    covered = 0
    for before, chunk in zip([None, *chunks], chunks, strict=False):
        assert text[chunk.start_char : chunk.end_char] == chunk.text == chunk.text.strip() != ""
        assert not text[covered : chunk.start_char].strip(), "words between two chunks are lost"
        if before:
            assert chunk.start_char > before.start_char
            assert chunk.end_char > before.end_char
        covered = max(covered, chunk.end_char)
    assert not text[covered:].strip(), "words at the end are lost"


pieces = st.sampled_from(
    ["word", "Sentence.", " ", "\n", "\n\n", "# Title\n", "## Part\n", "```\n", "~~~", "===\n", "---\n", "a" * 90, "日本。",
     "x, y; z", "- item\n", "1. ", "| a | b |\n", "é", "\U0001f600", "\t", "key: value\n\n", "?", "\u2028"]
)  # fmt: skip


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


def test_the_section_path_counts_against_the_size_of_a_chunk() -> None:
    heading = "A rather long heading of ten words or more here"
    text = f"# {heading}\n\n" + "".join(a_document(4))
    assert all(count_tokens(chunk.embed_text) <= CHUNKING.chunk_size + 1 for chunk in chunks_of(text, "markdown"))


def test_records_are_kept_whole_and_not_repeated() -> None:
    records = [f"name: Person {i}.\nnote: He said so. Then left." for i in range(60)]
    chunks = chunks_of("\n\n".join(records), "records")
    assert [record for chunk in chunks for record in chunk.text.split("\n\n")] == records


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


@cache
def a_llama_index_splitter(size: int) -> Callable[[str], list[str]]:
    from llama_index.core.node_parser import SentenceSplitter

    return SentenceSplitter(
        chunk_size=size,
        chunk_overlap=0,
        tokenizer=lambda text: [""] * count_tokens(text),
        chunking_tokenizer_fn=lambda text: [text],
        secondary_chunking_regex=CLAUSE,
    ).split_text


parts_of_lines = st.sampled_from(
    ["word ", "a, ", "b; c: d ", " ", "   ", "\t", "----------", "x" * 40 + " ", "日本、", "é ", "\U0001f600", "\n", "[1]",
     "one two three four five six seven eight nine "]
)  # fmt: skip


@given(st.lists(parts_of_lines, max_size=60).map("".join), st.integers(1, 30))
def test_a_long_line_is_cut_where_llama_index_cuts_it(line: str, size: int) -> None:
    line = re.sub("\n\n+", "\n", line)  # three of them end a paragraph, which is no line
    assert list(clauses(line, size, count_tokens)) == [c for c in a_llama_index_splitter(size)(line) if c]
