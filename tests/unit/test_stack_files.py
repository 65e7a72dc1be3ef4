"""What stands in compose.yaml, its scripts and its example settings, against each other and against the program."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import copy

import pytest
from pydantic import SecretStr

from ragstore.settings import Settings
from ragstore.settings.refusal import value_type
from tests.support.roles import GRANTS

ROOT = Path(__file__).parents[2]
STACK = ROOT / "stack"
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE_FILES = [COMPOSE, *(path.read_text(encoding="utf-8") for path in STACK.glob("*.yaml"))]
OF_THE_STACK = {"RAGSTORE_ENV", "RAGSTORE_HOME"}
SCRIPTS = [path for path in STACK.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")]
PINNED_FILES = ("compose.yaml", ".env.example", "stack/app/Dockerfile", "stack/pin-images")


def grants(text: str) -> list[str]:
    """Default privileges, without the names of roles."""
    return sorted(re.findall(r"ALTER DEFAULT PRIVILEGES FOR ROLE \S+ (GRANT .*) TO \S+;", text))


def test_the_roles_that_the_tests_use_may_do_what_those_of_the_stack_may() -> None:
    in_tests = GRANTS.replace("{maintain}", ", MAINTAIN")
    assert grants((STACK / "postgres/roles.sql").read_text(encoding="utf-8")) == grants(in_tests) != []


def test_every_option_that_is_no_secret_is_passed_on_from_the_settings_file() -> None:
    plain = {f"RAGSTORE_{n.upper()}" for n, f in Settings.model_fields.items() if value_type(f) is not SecretStr}
    assert set(re.findall(r"(RAGSTORE_\w+): \$\{\1:-", COMPOSE)) == plain - OF_THE_STACK


def test_every_secret_option_but_the_urls_is_a_secret_file() -> None:
    secret = {n for n, f in Settings.model_fields.items() if value_type(f) is SecretStr}
    assert set(re.findall(r"target: ragstore_(\w+)", COMPOSE)) == secret - {"postgres_url", "mongo_url"}


def test_the_example_settings_name_what_the_stack_reads_with_its_defaults() -> None:
    read = dict(found for text in COMPOSE_FILES for found in re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = dict(re.findall(r"^#((?!RAGSTORE_|COMPOSE_FILE)\w+)=(.*)$", example, re.MULTILINE))
    assert named == {name: default for name, default in read.items() if not name.startswith("RAGSTORE_")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(STACK)))
def test_every_script_is_executable_and_can_be_parsed(script: Path) -> None:
    assert script.stat().st_mode & 0o111 == 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)


def test_every_image_is_pinned_by_digest_and_the_same_everywhere() -> None:
    texts = [COMPOSE, *((ROOT / name).read_text(encoding="utf-8") for name in (".env.example", "stack/app/Dockerfile"))]
    found: dict[str, set[str]] = {}
    for text in texts:
        for name, image in re.findall(r"(\w+_IMAGE)(?::-|=)([^\s}]+)", text):
            found.setdefault(name, set()).add(image)
    assert found.pop("APP_IMAGE") == {"ragstore:0.1.0"}
    assert {name: len(images) for name, images in found.items()} == dict.fromkeys(found, 1)
    assert found.keys() == {"POSTGRES_IMAGE", "MONGO_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE", "PYTHON_IMAGE"}
    for (image,) in found.values():
        assert re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", image), image


@pytest.fixture
def pinning(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``stack/pin-images`` on a copy of the files that it writes, with a registry that has one digest for all tags."""
    for name in PINNED_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\nif [ "$DIGEST" = none ]; then exit 1; fi\necho "sha256:$DIGEST"\n')
    docker.chmod(0o755)

    def run(*arguments: str, digest: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{docker.parent}:{os.environ['PATH']}", "DIGEST": digest}
        command = [str(tmp_path / "stack/pin-images"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)

    return run


def test_pinning_writes_what_the_registry_has_and_checking_only_says_it(
    pinning: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    def written() -> list[str]:
        return [(tmp_path / name).read_text(encoding="utf-8") for name in PINNED_FILES]

    before, new = written(), "a" * 64
    checked = pinning("--check", digest=new)
    assert (checked.returncode, checked.stdout, written()) == (1, "", before)
    assert len(checked.stderr.splitlines()) == 5
    assert "differs mongo:" in checked.stderr and f"the registry has sha256:{new}" in checked.stderr
    assert pinning(digest="none").returncode != 0 and pinning(digest="short").returncode != 0
    assert written() == before
    assert pinning(digest=new).returncode == 0
    assert written() == [re.sub("@sha256:[0-9a-f]{64}", f"@sha256:{new}", text) for text in before]
    again = pinning("--check", digest=new)
    assert (again.returncode, again.stderr, len(again.stdout.splitlines())) == (0, "", 5)


@pytest.mark.parametrize(
    ("version", "parallel"), [("0.8.0", False), ("0.8.1", False), ("0.8.2", True), ("0.10.0", True)]
)
def test_an_old_pgvector_builds_without_parallel_workers(tmp_path: Path, version: str, parallel: bool) -> None:
    (tmp_path / "vector.control").write_text(f"comment = 'x'\ndefault_version = '{version}'\n", encoding="utf-8")
    (tmp_path / "data" / "pgdata").mkdir(parents=True)
    (tmp_path / "data" / "pgdata" / "PG_VERSION").touch()
    text = (STACK / "postgres/start").read_text(encoding="utf-8")
    text = text.replace("/usr/share/postgresql/*/extension/vector.control", str(tmp_path / "vector.control"))
    text = text.replace("/var/lib/postgresql/data", str(tmp_path / "data")).replace("exec postgres", "echo postgres")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True, timeout=10)
    assert ("max_parallel_maintenance_workers=0" not in done.stdout) is parallel
