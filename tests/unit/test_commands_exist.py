"""Every command, option and setting that a document, a help text, an alert or an error names, held to the real parser."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ragstore.cli.main import VERBS, app
from ragstore.errors import RagstoreError
from ragstore.settings import Settings

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "src/ragstore/llama/README.md", "migrations/README.md"]
PAGES += ["src/ragstore/transfer/README.md"]
PAGES += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "stack").rglob("*.md"))]
IN_CONTAINERS = {"app", "maintain", "worker", "migrate"}
"""Services whose entry point is the command line."""

VALUES = {"N": "5", "SECONDS": "30", "LAMBDA": "0.5", "HOST:PORT": "127.0.0.1:9464"}
_VERBS = "|".join(VERBS)
_QUOTED = re.compile(rf"(?:(?<=[`'])|(?<=: )|^)ragstore ((?:{_VERBS})\b[^`';,]*)")
_NAMED = re.compile(rf"\bragstore (?:{_VERBS})\b")


@cache
def the_parser() -> Any:
    return typer.main.get_command(app())


def parse(arguments: list[str]) -> None:
    """Raises as the command line does where a call is wrong; runs nothing."""
    command = the_parser()
    with command.make_context("ragstore", arguments) as context:
        _, verb, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert verb is not None
        verb.make_context(verb.name, list(rest), parent=context).close()


def spelled_out(synopsis: str) -> Iterator[list[str]]:
    """The calls that a synopsis stands for: ``a [x|y] [-k N] PATH…``, each alternative once."""
    synopsis = re.sub(r"\{[^}]*\}", "x", synopsis).replace(" … ", " x ").replace("…", "")
    words: list[list[str]] = []
    for bracketed, quoted, word in re.findall(r"\[([^\]]*)\]|(\"[^\"]*\"|'[^']*')|(\S+)", synopsis):
        if quoted:
            words.append([quoted])
        elif bracketed and " " in bracketed:
            words += [part.split("|") for part in bracketed.split()]
        else:
            words.append((bracketed or word).split("|"))
    for chosen in product(*words):
        yield [VALUES.get(word, word) for word in shlex.split(" ".join(chosen))]


def assert_parses(command: str, where: str) -> None:
    for arguments in spelled_out(command):
        try:
            parse(arguments)
        except typer.TyperException as error:
            if len(arguments) == 1 and "Missing" in error.format_message():
                continue  # the name of a command
            pytest.fail(f"{where}: ragstore {' '.join(arguments)}: {error.format_message()}")
        except typer.Exit:
            pass  # --help


def code_of(text: str) -> list[str]:
    """Lines of code blocks and pieces of inline code."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for block in blocks for line in block.splitlines()] + inline


def commands_in(line: str) -> Iterator[str]:
    """What is given to the command line in a line of shell: by itself, or in a container."""
    line = re.sub(r"\s+#.*$|   +.*$", "", line.strip())
    for part in re.split(r"&&|;", line):
        words = part.strip().removeprefix("$ ").removeprefix(".venv/bin/").removeprefix("$(BIN)/")
        if found := re.match(r"docker compose run --rm (?:-T )?(\w[\w-]*) (.+)", words):
            if found[1] in IN_CONTAINERS:
                yield found[2]
        elif words.startswith("ragstore "):
            yield from (each.removeprefix("ragstore ") for each in re.split(r" \| ", words))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one(page: str) -> None:
    for line in code_of((ROOT / page).read_text(encoding="utf-8")):
        for command in commands_in(line):
            if command.split()[0] in VERBS or command.startswith("-") or "docker" in line:
                assert_parses(command, page)


def test_pages_show_commands() -> None:
    shown = [c for page in PAGES for line in code_of((ROOT / page).read_text()) for c in commands_in(line)]
    assert {command.split()[0] for command in shown} >= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_and_option_of_a_help_text_is_one(verb: str) -> None:
    command = the_parser().commands[verb]
    text = command.get_help(typer.Context(command, info_name=verb))
    for match in _QUOTED.finditer(" ".join(text.split())):
        assert_parses(match[1], verb)
    own = {name for each in the_parser().commands.values() for parameter in each.params for name in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= own | {"--debug", "--version", "--help"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_can_be_quiet_and_those_with_a_result_have_json(verb: str) -> None:
    options = {name for parameter in the_parser().commands[verb].params for name in parameter.opts}
    assert {"--quiet", "-q", "--help"} <= options | {"--help"}
    assert "--json" in options or verb in ("worker", "maintain")


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of a source file, formatted ones with x for what is put in; no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(n.body[0].value)
        for n in ast.walk(tree)
        if isinstance(n, documented) and n.body and isinstance(n.body[0], ast.Expr)
    }
    parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in ast.walk(n) if v is not n}
    for node in ast.walk(tree):
        if id(node) in docstrings | parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(v.value) if isinstance(v, ast.Constant) else "x" for v in node.values)


@cache
def messages() -> list[tuple[Path, int, str]]:
    """All of them that name a command."""
    return [
        (path, line, text)
        for path in SOURCES
        for line, text in texts_of(path)
        if _NAMED.search(text) or "docker" in text
    ]


NOT_COMMANDS = ("run 'ragstore x'",)


def test_every_command_of_a_message_is_one() -> None:
    for path, line, text in messages():
        for match in _QUOTED.finditer(text if not any(known in text for known in NOT_COMMANDS) else ""):
            assert_parses(match[1].replace(" x x", " x"), f"{path.name}:{line}")
        for match in re.finditer(r"docker compose run --rm (\w+) ([^'`;]+)", text):
            assert match[1] in IN_CONTAINERS, text
            if match[2].strip() != "x":  # it is that of the function's caller, which stands in quotes there
                assert_parses(match[2], f"{path.name}:{line}")


def test_a_command_in_a_message_stands_in_quotes_or_behind_run() -> None:
    for path, line, text in messages():
        unmarked = _NAMED.search(_QUOTED.sub("", text))
        assert unmarked is None or any(known in text for known in NOT_COMMANDS), f"{path.name}:{line}: {text}"


def advice_of(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Hints of errors that are raised here, as the command line and as Python show them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            given = {each.arg: ast.unparse(each.value) for each in node.keywords}
            if "hint" in given:
                yield node.lineno, given["hint"], given.get("in_python")


_OPTION = re.compile(r"(?<![\w-])(?:-[a-z]\b|--[a-z][a-z-]+)")
_HAS_TWIN = re.compile(
    r"ragstore (?:ingest|sync|query|ask|documents|history|delete|drop|quarantine|import|export|adopt)\b"
)


def test_python_is_not_told_options_of_the_command_line() -> None:
    own = {name for each in the_parser().commands.values() for parameter in each.params for name in parameter.opts}
    found = [(p, each) for p in SOURCES if p.parts[-2] not in ("cli", "worker") for each in advice_of(p)]
    assert len(found) > 100
    for path, (line, hint, in_python) in found:
        shown = in_python or hint
        assert not set(_OPTION.findall(shown)) & own, f"{path.name}:{line}: {shown}"
        assert in_python or not _HAS_TWIN.search(hint) or "RAGSTORE_" in hint, f"{path.name}:{line}: {hint}"


def test_an_error_says_to_python_what_python_can_do() -> None:
    error = RagstoreError("no", hint="use -k, then run the same command again", in_python="give top_k=")
    assert (error.hint[:6], str(error)) == ("use -k", "no (give top_k=)")
    assert str(RagstoreError("no", hint="mount it, then run the same command again")).endswith(
        "make the same call again)"
    )


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "stack/observability/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("alert", alerts(), ids=lambda rule: rule["alert"])
def test_every_action_of_an_alert_can_be_taken(alert: dict[str, Any]) -> None:
    services = set(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])
    action = re.sub(r"\{\{[^}]*\}\}", "mongo", alert["annotations"]["action"])
    for part in action.split(";"):
        for command in commands_in(part[part.index("docker") :] if "docker" in part else part):
            assert_parses(command, alert["alert"])
        if named := re.search(r"docker compose (?:ps|logs --tail \d+) (.+)", part):
            assert set(named[1].split()) <= services


def test_every_setting_that_the_stack_names_exists() -> None:
    options = {f"RAGSTORE_{name.upper()}" for name in Settings.model_fields}
    options |= {"RAGSTORE_CONFIG", "RAGSTORE_SECRETS_DIR", "RAGSTORE_FAILPOINT", "RAGSTORE_ENV"}
    files = [ROOT / "compose.yaml", ROOT / ".env.example", *(ROOT / "stack").glob("*.yaml")]
    files += [ROOT / "stack/observability/alerts.yaml", ROOT / "stack/prepare", ROOT / "stack/restore"]
    for path in files:
        named = set(re.findall(r"\bRAGSTORE_[A-Z_]+[A-Z]\b", path.read_text()))
        secret_files = {name.removesuffix("_FILE") for name in named}
        assert {name for name in secret_files if name not in options} == set(), path.name


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_service_that_a_page_runs_exists(page: str) -> None:
    services = set(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code_of((ROOT / page).read_text(encoding="utf-8")):
        if found := re.match(r"make ([a-z]+)", line):
            assert found[1] in targets, line
        if found := re.match(r"(stack/(?!secrets)[\w/-]+)(?: |$)", line.strip()):
            assert (ROOT / found[1]).exists(), line
        for service, script in re.findall(r"docker compose exec ([\w-]+) (/stack/[\w-]+)", line):
            assert service in services, line
            assert (ROOT / "stack" / service / Path(script).name).exists() or service == "backup", line


@pytest.mark.parametrize(
    "wrong", ["querry x", "query x --modus vector", "query x -k many", "query x --mode fast", "status now"]
)
def test_a_wrong_command_would_be_found(wrong: str) -> None:
    with pytest.raises(pytest.fail.Exception):
        assert_parses(wrong, "here")
