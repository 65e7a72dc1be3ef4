"""Private names of ragstore stand in ``tests/support/internals.py`` alone, so that a change inside has one place to mend."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOOR = TESTS / "support" / "internals.py"
OF_OTHERS = {"_replace", "_engine"}
"""Of named tuples and of LlamaIndex, by chance also ours."""

_DEFINED = re.compile(r"(?:\bdef |\bclass |\bself\.|^ *)(_[a-zA-Z]\w*)", re.MULTILINE)
_NAMED = re.compile(r"(?<!\bself\.)(?<!\bcls\.)(?<!\w)(_[a-zA-Z]\w*)")


def is_private(name: str) -> bool:
    return name.strip("_") != "" and name.startswith("_") and not name.startswith("__")


def defined_in(tree: ast.AST) -> set[str]:
    """Private names of functions, classes, attributes and variables."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return {name for name in names if is_private(name)}


def private_accesses(source: str, ours: set[str]) -> list[str]:
    """What it does with private names that it does not define: imported, reached through an object, named as text."""
    tree = ast.parse(source)
    others = ours - defined_in(tree)
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] == "ragstore":
                found += [f"{module}.{each.name}" for each in names if is_private(each.name)]
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if name in others:
                found.append(ast.unparse(node))
            case ast.Call(args=[_, ast.Constant(value=str(name)), *_]) if name in others:
                found.append(ast.unparse(node))
    return found


@cache
def names_of_ragstore() -> set[str]:
    sources = (path.read_text(encoding="utf-8") for path in (TESTS.parent / "src").rglob("*.py"))
    return {name for source in sources for name in _DEFINED.findall(source)} - OF_OTHERS


def may_have_some(source: str, ours: set[str]) -> bool:
    """A quick look, so that few files are parsed."""
    return not ours.isdisjoint(_NAMED.findall(source))


def test_private_names_of_ragstore_are_used_behind_one_door() -> None:
    ours = names_of_ragstore()
    for path in sorted(TESTS.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path != DOOR and may_have_some(source, ours):
            assert private_accesses(source, ours) == [], path.relative_to(TESTS)


def test_each_way_around_the_door_is_found() -> None:
    ours = names_of_ragstore()
    around = ["from ragstore.postgres.search import _statement", "rs._pool", "patch.setattr(search, '_MAX_FEW', 1)"]
    assert all(may_have_some(source, ours) for source in around)
    assert [len(private_accesses(source, ours)) for source in around] == [1, 1, 1]
