"""Documents for tests: plain text whose every sentence is unlike every other, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
_WORDS_IN_SENTENCE = 10
_SENTENCES_IN_PARAGRAPH = 4


def a_sentence(seed: object) -> str:
    chance = random.Random(f"sentence {seed}")
    words = ["".join(chance.choices(_SYLLABLES, k=chance.randint(2, 4))) for _ in range(_WORDS_IN_SENTENCE)]
    return f"{' '.join(words).capitalize()}."


def a_text(seed: object, n_sentences: int = 24) -> str:
    """About 13 tokens a sentence: 24 of them make some ten chunks of 32 tokens."""
    sentences = [a_sentence(f"{seed} {i}") for i in range(n_sentences)]
    paragraphs = [
        " ".join(sentences[i : i + _SENTENCES_IN_PARAGRAPH]) for i in range(0, n_sentences, _SENTENCES_IN_PARAGRAPH)
    ]
    return "\n\n".join(paragraphs) + "\n"


def an_edited(text: str, seed: object) -> str:
    """The same text with one sentence replaced, somewhere in it."""
    chance = random.Random(f"edit {seed}")
    sentences = [s for s in text.replace("\n", " ").split(". ") if s.strip()]
    old = chance.choice(sentences).strip().rstrip(".")
    return text.replace(f"{old}.", a_sentence(f"edit {seed}"), 1)


def write_documents(folder: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """Write files by name; returns what the stores must then say: document id → text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return {str(folder / name): text for name, text in texts.items()}


def write_paragraphs(folder: Path, *, n_files: int, n_paragraphs: int) -> None:
    """Write files each of whose paragraphs fills a chunk of 96 tokens and begins like no other."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    sentences = [a_sentence(i) for i in range(5_000)]
    for i in range(n_files):
        paragraphs = [
            " ".join([f"Number {i} {j} begins here.", *chance.choices(sentences, k=4)]) for j in range(n_paragraphs)
        ]
        (folder / f"{i}.txt").write_text("\n\n".join(paragraphs))
