from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ragstore.errors import SettingsError
from ragstore.settings import Settings


def the_refusal(**call: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        Settings(**call)
    return caught.value


def test_a_refusal_names_option_value_what_is_allowed_and_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("RAGSTORE_TOP_K=12")
    monkeypatch.setenv("RAGSTORE_TOP_K", "zero")
    error = the_refusal()
    assert (
        error.message == "RAGSTORE_TOP_K is 'zero' (from the environment), and it must be a whole number from 1 to 1000"
    )
    assert error.facts["option"] == "RAGSTORE_TOP_K"
    for place in (
        "environment: 'zero'",
        f"{tmp_path}/.env: '12'",
        "ragstore.toml: not there",
        "/run/secrets",
        "default: 10",
    ):
        assert place in error.hint


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("chunk_size", 31),
        ("chunk_size", 8193),
        ("top_k", 0),
        ("top_k", 1.5),
        ("batch_chunks", 20_001),
        ("lease_ttl_s", 4.9),
        ("lease_ttl_s", float("nan")),
        ("grace_s", float("inf")),
        ("pool_size", 201),
        ("env", "production"),
        ("log_level", "loud"),
        ("collection", "My Docs"),
        ("mongo_database", "a.b"),
        ("text_search_config", "english'; drop"),
        ("llm", "gpt"),
        ("model", ""),
        ("model_base_url", "localhost:8080"),
        ("postgres_url", "mysql://h/d"),
    ],
)
def test_a_value_out_of_range_is_refused(option: str, value: Any) -> None:
    assert the_refusal(**{option: value}).facts["option"] == f"RAGSTORE_{option.upper()}"


def test_an_overlap_as_large_as_the_chunk_is_refused() -> None:
    assert "smaller than chunk_size, which is 64" in the_refusal(chunk_size=64, chunk_overlap=64).message
    assert Settings(chunk_size=64, chunk_overlap=63).chunk_overlap == 63


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"postgres_url": "postgresql://h/d"}, "MONGO"), ({"mongo_url": "mongodb://h"}, "POSTGRES")],
)
def test_one_url_without_the_other_is_refused(given: dict[str, str], missing: str) -> None:
    error = the_refusal(**given)
    assert f"RAGSTORE_{missing}_URL is not set" in error.message
    assert "both" in error.hint
    assert "neither" in error.hint


def test_all_wrong_options_are_named() -> None:
    assert the_refusal(top_k=0, pool_size=0).facts["others"] == ["RAGSTORE_POOL_SIZE"]


def test_a_refused_secret_is_not_shown_not_even_by_its_cause() -> None:
    for call in (
        {"postgres_url": "mysql://me:hunter2@h/d"},
        {"postgres_url": "postgresql://me:hunter2@h/d"},
        {"model_api_key": ["hunter2"]},
        {"model_base_url": "ftp://me:hunter2@h"},
    ):
        error = the_refusal(**call)
        assert "hunter2" not in f"{error} {error.facts} {error.__cause__}"


def test_a_mistyped_variable_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSTORE_POSTGRESS_URL", "postgresql://h/d")
    error = the_refusal()
    assert "RAGSTORE_POSTGRESS_URL" in error.message
    assert error.hint == "did you mean RAGSTORE_POSTGRES_URL?"


def test_a_mistyped_name_is_refused_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert the_refusal(topk=3).hint == "did you mean top_k?"
    (tmp_path / "ragstore.toml").write_text("chunksize = 3")
    assert the_refusal().hint == "did you mean chunk_size?"
    (tmp_path / ".env").write_text("RAGSTORE_TOPK=3")
    assert the_refusal().hint == "did you mean RAGSTORE_TOP_K?"
    (tmp_path / ".env").unlink()
    (tmp_path / "ragstore.toml").unlink()
    (tmp_path / "ragstore_mongo_urI").write_text("mongodb://h")
    monkeypatch.setenv("RAGSTORE_SECRETS_DIR", str(tmp_path))
    assert the_refusal().hint == "did you mean RAGSTORE_MONGO_URL?"


def test_a_name_that_is_near_none_points_to_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSTORE_XYZZY", "1")
    assert "ragstore status --settings" in the_refusal().hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAGSTORE_FAILPOINT", "published"),
        ("RAGSTORE_TEST_SEED", "1"),
        ("RAGSTORE_SERVICE_HOST", "10.0.0.1"),
        ("RAGSTORE_API_SERVICE_PORT_HTTP", "80"),
        ("RAGSTORE_PORT", "tcp://10.0.0.1:80"),
        ("RAGSTORE_PORT_80_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_names_that_are_set_for_other_reasons_are_left_alone(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert Settings().top_k == 10


@pytest.mark.parametrize("url", [None, "postgresql://db/rag", "postgresql://me:other@db/rag"])
def test_a_password_without_a_place_in_the_url_is_refused_and_not_shown(url: str | None) -> None:
    servers = {"postgres_url": url, "mongo_url": "mongodb://m/"} if url else {}
    error = the_refusal(postgres_password="hunter2", **servers)
    assert error.message == (
        "RAGSTORE_POSTGRES_PASSWORD is '********' (from the call), and it must go with a RAGSTORE_POSTGRES_URL that "
        "names a user and no password"
    )
    assert "hunter2" not in f"{error} {error.hint} {error.facts}"
