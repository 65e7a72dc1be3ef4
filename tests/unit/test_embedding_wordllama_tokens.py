from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ragstore.embedding import load
from ragstore.embedding.embedder import package_file
from ragstore.embedding.wordllama_model import PieceTokenizer, is_divisible

SPACE = "\u2581"
SPECIAL = ("<unk>", "<s>", "</s>")


def a_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


TOKENIZER = a_tokenizer()
PIECES = PieceTokenizer(TOKENIZER)

PARTS = [
    *" \n\t\r.,:;()<>/\\'\"-_%`abcXYZ019éßÖжя中文。！»“😀",
    SPACE,
    "the ",
    "don't",
    "  ",
    "<s>",
    "...",
    "----",
    "();",
    "://",
]

texts = st.lists(st.sampled_from(PARTS)).map("".join)


def of_whole(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids


def test_no_token_crosses_a_place_where_texts_are_cut() -> None:
    vocabulary = [token for token in TOKENIZER.get_vocab() if token not in SPECIAL and not token.startswith("<0x")]
    assert len(vocabulary) > 30_000
    assert not [token for token in vocabulary if "\n" in token or re.search(f"[^{SPACE}]{SPACE}", token)]
    ascii_tokens = [token for token in vocabulary if token.replace(SPACE, " ").isascii()]
    crossing = f"[A-Za-z][^A-Za-z]|[^A-Za-z{SPACE}][A-Za-z]|[0-9].|.[0-9]"
    assert not [token for token in ascii_tokens if re.search(crossing, token)]


def test_merges_are_all_that_makes_tokens() -> None:
    tokenizer = json.loads(TOKENIZER.to_str())
    assert tokenizer["pre_tokenizer"] is None
    assert tokenizer["model"]["type"] == "BPE"
    assert tokenizer["model"]["dropout"] is None


@given(st.lists(texts.filter(bool), min_size=1, max_size=5))
def test_a_text_cut_to_pieces_has_the_tokens_of_the_whole(several: list[str]) -> None:
    divisible = [text for text in several if is_divisible(text)]
    assert [ids.tolist() for ids in PIECES.ids(divisible)] == [of_whole(text) for text in divisible]


@given(st.text(min_size=1))
def test_any_text_cut_to_pieces_has_the_tokens_of_the_whole(text: str) -> None:
    if is_divisible(text):
        assert PIECES.ids([text])[0].tolist() == of_whole(text)


@pytest.mark.parametrize("text", SPECIAL)
def test_a_text_that_names_a_token_of_the_model_is_not_cut(text: str) -> None:
    assert not is_divisible(f"see {text} there")


def test_many_texts_have_the_vectors_of_one() -> None:
    embedder = load("wordllama")
    several = [f"Number {i}: don't use  {i * 7} of «é» or <b>{i}</b>." for i in range(300)]
    several[7] += " <s> "
    many = embedder.embed_documents(several)
    assert np.array_equal(many, np.stack([embedder.embed_documents([text])[0] for text in several]))
