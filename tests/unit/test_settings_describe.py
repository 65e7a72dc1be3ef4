from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ragstore.settings import Settings, describe, masked_url

ROOT = Path(__file__).parents[2]


def a_settings_with_secrets() -> Settings:
    return Settings(
        postgres_url="postgresql://me:hunter2@db:5432/rag?sslmode=require&sslpassword=hunter2",
        mongo_url="mongodb://me:hunter2@m1,m2/?replicaSet=rs0",
        model_api_key="sk-hunter2",
        model_base_url="https://me:hunter2@host/v1",
    )


def test_every_option_has_help_and_says_what_it_takes() -> None:
    rows = describe(Settings())
    assert {row.name for row in rows} == {f"RAGSTORE_{name.upper()}" for name in Settings.model_fields}
    for row in rows:
        assert row.help and row.allowed, row.name


def test_every_number_has_both_limits() -> None:
    for row in describe(Settings()):
        if isinstance(row.default, int | float):
            assert " from " in row.allowed and " to " in row.allowed, row.name


def test_secrets_are_covered_and_the_rest_of_a_url_is_not() -> None:
    rows = {row.name: row for row in describe(a_settings_with_secrets())}
    assert "hunter2" not in str(rows)
    assert rows["RAGSTORE_POSTGRES_URL"].value == (
        "postgresql://me:********@db:5432/rag?sslmode=require&sslpassword=********"
    )
    assert rows["RAGSTORE_MONGO_URL"].value == "mongodb://me:********@m1,m2/?replicaSet=rs0"
    assert rows["RAGSTORE_MODEL_API_KEY"].value == "********"
    assert rows["RAGSTORE_MODEL_BASE_URL"].value == "https://me:********@host/v1"


def test_secrets_are_shown_on_request() -> None:
    rows = {row.name: row for row in describe(a_settings_with_secrets(), show_secrets=True)}
    assert rows["RAGSTORE_MODEL_API_KEY"].value == "sk-hunter2"


def test_settings_do_not_show_secrets_when_printed() -> None:
    settings = Settings(model_api_key="sk-hunter2")
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_password_that_is_not_encoded_is_covered_too() -> None:
    assert masked_url("mongodb://me:hun@ter2/@m1,m2/?replicaSet=rs0") == "mongodb://me:********@m1,m2/?replicaSet=rs0"


@pytest.mark.parametrize("url", ["postgresql://me@db/rag", "mongodb://h1,h2/?replicaSet=rs0", "no url: a@b"])
def test_text_without_a_password_comes_back_as_it_is(url: str) -> None:
    assert masked_url(url) == url


def test_the_example_file_shows_every_option_with_its_default_and_nothing_else() -> None:
    example = (ROOT / ".env.example").read_text()
    lines = [line for line in example.splitlines() if line.startswith("#RAGSTORE_")]
    rows = describe(Settings())
    assert lines == [f"#{row.name}={'' if row.default is None else row.default}" for row in rows]
    words = " ".join(example.replace("#", " ").split())
    for row in rows:
        assert row.help in words, row.name


def test_the_example_file_can_be_used_with_every_line_uncommented(tmp_path: Path) -> None:
    example = (ROOT / ".env.example").read_text()
    defaults = Settings().model_dump()
    (tmp_path / ".env").write_text(example.replace("#RAGSTORE_", "RAGSTORE_"))
    assert Settings().model_dump() == defaults
    assert Settings().origin("top_k") == ".env"


def test_importing_settings_imports_neither_drivers_nor_llama_index() -> None:
    program = (
        "import sys, ragstore.settings; print([m for m in ('llama_index', 'pymongo', 'psycopg2') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == "[]"
