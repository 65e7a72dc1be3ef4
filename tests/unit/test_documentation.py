"""What the documents say exists: verbs, options, failpoints, links, tests, targets; and the other way round."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragstore.cli.main import VERBS, app
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "migrations/README.md")
ALL_DOCUMENTS = (*DOCUMENTS, *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("stack/**/*.md"))))

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_TEST = re.compile(r"\btest_\w+")
_FAILPOINT_ROW = re.compile(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*)[^|]*\|", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\b(TODO|FIXME|XXX|TBD|TESTS_[A-Z]+)\b")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return _CODE.sub("", text)


def code_in(text: str) -> str:
    return "\n".join(_CODE.findall(text))


def anchors_of(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#{1,6} (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_readme(verb: str) -> None:
    commands = re.search(r"## The command line\n+```\n(.*?)```", text_of("README.md"), re.DOTALL)
    assert commands is not None
    assert re.search(rf"^ragstore .*\b{verb}\b", commands[1], re.MULTILINE)


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_every_command_that_a_document_shows_is_a_verb(document: str) -> None:
    verbs = set(VERBS)
    shown = re.findall(r"(?:^|[`$] ?)ragstore ([a-z]+)\b", code_in(text_of(document)), re.MULTILINE)
    assert set(shown) <= verbs


def test_every_option_is_in_the_example_file_and_every_option_in_the_documents_exists() -> None:
    options = {f"RAGSTORE_{name.upper()}" for name in Settings.model_fields}
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^#(RAGSTORE_\w+)=", example, re.MULTILINE)) == options
    others = {"RAGSTORE_CONFIG", "RAGSTORE_SECRETS_DIR", "RAGSTORE_FAILPOINT"}
    for document in ALL_DOCUMENTS:
        named = {name.rstrip("_") for name in re.findall(r"RAGSTORE_\w+", text_of(document))} - {"RAGSTORE"}
        unknown = {name for name in named - options - others if not name.startswith("RAGSTORE_TEST_")}
        assert unknown == set(), document


def test_every_option_named_in_the_help_exists() -> None:
    options = {f"RAGSTORE_{name.upper()}" for name in Settings.model_fields}
    program = app()
    for verb in VERBS:
        shown = CliRunner().invoke(program, [verb, "--help"])
        assert shown.exit_code == 0, shown.output
        assert set(re.findall(r"RAGSTORE_[A-Z_]+[A-Z]", shown.output)) <= options, verb


def test_what_messages_advise_exists() -> None:
    options = {f"RAGSTORE_{name.upper()}" for name in Settings.model_fields}
    others = {"RAGSTORE_CONFIG", "RAGSTORE_SECRETS_DIR", "RAGSTORE_FAILPOINT"}
    verbs = set(VERBS)
    for path in sorted((ROOT / "src").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert set(re.findall(r"RAGSTORE_[A-Z_]+[A-Z]", source)) <= options | others, path.name
        assert set(re.findall(r"(?:'|`|run: )ragstore ([a-z]+)\b", source)) <= verbs, path.name


def test_the_failpoints_in_the_architecture_are_those_of_the_program() -> None:
    table = text_of("ARCHITECTURE.md").partition("| killed at failpoint |")[2].partition("\n\n")[0]
    named = [name for row in _FAILPOINT_ROW.findall(table) for name in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(named) == sorted(Failpoint)


def test_every_failpoint_is_reached_somewhere() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for failpoint in Failpoint:
        assert f"Failpoint.{failpoint.name}" in sources, failpoint


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_relative_links_lead_somewhere(document: str) -> None:
    for link in _LINK.findall(without_code(text_of(document))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_every_test_that_a_document_names_exists(document: str) -> None:
    text = text_of(document)
    files = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
    functions = {
        name for path in files.values() for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    patterns = {name for name in _TEST.findall(text) if f"{name}*" in text}
    for name in set(_TEST.findall(text)) - patterns:
        assert name in files or name in functions, name
    for pattern in patterns:
        assert any(stem.startswith(pattern) for stem in files), f"{pattern}*"
    for path in re.findall(r"\btests/[\w/.]*\w", text):
        assert (ROOT / path).exists(), path


def test_each_guarantee_in_the_readme_links_to_a_test_that_shows_it() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\.\*\*.*\|(.*)\|$", text_of("README.md"), re.MULTILINE)
    assert len(rows) >= 5
    for guarantee, shown_by in rows:
        links = _LINK.findall(shown_by)
        assert links, guarantee
        assert all(link.startswith("tests/") for link in links), guarantee


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_every_make_target_that_a_document_names_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:^|`|&& )make ([a-z]+)", code_in(text_of(document)), re.MULTILINE)
    assert set(named) <= targets


def test_the_modules_that_make_runs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for module in re.findall(r"python -m (tests\.[\w.]+)", makefile):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for script in re.findall(r"python ([\w/]+\.py)", makefile):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_no_document_has_something_left_to_fill_in(document: str) -> None:
    assert _PLACEHOLDER.findall(text_of(document)) == []
