from __future__ import annotations

from pathlib import Path

import pytest

from ragstore.app.wiring import configured
from ragstore.errors import SettingsError
from ragstore.settings import Settings


def a_secrets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> Path:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, text in files.items():
        (secrets / name).write_text(text)
    monkeypatch.setenv("RAGSTORE_SECRETS_DIR", str(secrets))
    return secrets


def test_each_place_wins_over_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().top_k, Settings().origin("top_k")) == (10, "default")
    a_secrets_folder(tmp_path, monkeypatch, ragstore_top_k="11\n")
    assert (Settings().top_k, Settings().origin("top_k")) == (11, "secret file")
    (tmp_path / "ragstore.toml").write_text("top_k = 12")
    assert (Settings().top_k, Settings().origin("top_k")) == (12, "ragstore.toml")
    (tmp_path / ".env").write_text("RAGSTORE_TOP_K=13")
    assert (Settings().top_k, Settings().origin("top_k")) == (13, ".env")
    monkeypatch.setenv("RAGSTORE_TOP_K", "14")
    assert (Settings().top_k, Settings().origin("top_k")) == (14, "environment")
    assert (Settings(top_k=15).top_k, Settings(top_k=15).origin("top_k")) == (15, "call")


def test_an_empty_value_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("RAGSTORE_TOP_K=13\nRAGSTORE_MODEL=")
    monkeypatch.setenv("RAGSTORE_TOP_K", "")
    assert Settings().top_k == 13
    assert Settings().origin("model") == "default"


def test_none_from_the_call_takes_a_url_of_the_environment_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSTORE_POSTGRES_URL", "postgresql://h/d")
    monkeypatch.setenv("RAGSTORE_MONGO_URL", "mongodb://h/")
    assert not Settings().embedded
    assert Settings(postgres_url=None, mongo_url=None).embedded
    with pytest.raises(SettingsError, match="RAGSTORE_POSTGRES_URL is not set"):
        Settings(postgres_url=None)


def test_names_of_variables_and_secret_files_are_case_insensitive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_secrets_folder(tmp_path, monkeypatch, RAGSTORE_MODEL_API_KEY="k1", LLM_API_KEY="k2")
    monkeypatch.setenv("ragstore_top_k", "7")
    settings = Settings()
    assert settings.top_k == 7
    assert settings.model_api_key is not None
    assert settings.model_api_key.get_secret_value() == "k1"
    assert settings.llm_api_key is not None
    assert settings.llm_api_key.get_secret_value() == "k2"


def test_secret_files_may_stand_in_a_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = a_secrets_folder(tmp_path, monkeypatch)
    (secrets / "ragstore").mkdir()
    (secrets / "ragstore" / "llm_api_key").write_text("k\n")
    assert Settings().origin("llm_api_key") == "secret file"


def test_secrets_of_other_programs_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = a_secrets_folder(tmp_path, monkeypatch, ragstore_tls_key="not an option, and near none")
    (secrets / "keystore.jks").write_bytes(b"\xfe\xed\xfe\xed")
    assert Settings().origin("model_api_key") == "default"


def test_another_toml_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ragstore.toml").write_text("top_k = 12")
    (tmp_path / "other.toml").write_text("top_k = 20")
    monkeypatch.setenv("RAGSTORE_CONFIG", str(tmp_path / "other.toml"))
    assert Settings().top_k == 20


def test_dotenv_can_name_the_toml_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RAGSTORE_CONFIG=other.toml")
    (tmp_path / "other.toml").write_text("top_k = 20")
    assert Settings().top_k == 20


@pytest.mark.parametrize("variable", ["RAGSTORE_CONFIG", "RAGSTORE_SECRETS_DIR"])
def test_a_named_place_that_is_not_there_stops_the_start(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/nowhere/at/all")
    with pytest.raises(SettingsError, match=f"{variable} names /nowhere/at/all") as caught:
        Settings()
    assert variable in caught.value.hint


@pytest.mark.parametrize(("name", "content"), [("ragstore.toml", b"top_k ="), (".env", b"RAGSTORE_MODEL=\xff")])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings()


def test_variables_of_others_in_dotenv_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=x\nTOP_K=99\nRAGSTORE_TOP_K=13")
    assert Settings().top_k == 13


def test_home_is_made_absolute(tmp_path: Path) -> None:
    assert Settings(home="data").home == tmp_path / "data"
    assert Settings(home="~/data").home == Path.home() / "data"


def test_passwords_from_secret_files_go_into_the_urls_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ragstore_postgres_password").write_text("p@ss/word%\n")
    (tmp_path / "ragstore_mongo_password").write_text("m:ngo")
    monkeypatch.setenv("RAGSTORE_SECRETS_DIR", str(tmp_path))
    settings = Settings(
        postgres_url="postgresql://me@db:5432/rag?sslmode=require", mongo_url="mongodb://me@m1,m2/?tls=true"
    )
    found = configured(settings)
    assert found is not None
    assert found.postgres_url == "postgresql://me:p%40ss%2Fword%25@db:5432/rag?sslmode=require"
    assert found.mongo_url == "mongodb://me:m%3Ango@m1,m2/?tls=true"
