"""Readers of source code, settings and logs: whole lines, under the names of the definitions that they lie in.

Definitions are found by the form of their first line and by indentation, without a grammar of each language, so that
every language whose code is indented is read in one way, and quickly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragstore.sources.outlines import Mark, marks_by, read_outline, title_of
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

_MIN_LINES = 4
_MAX_LINE_CHARS = 400
_TAB = 4

_NAME = r"[A-Za-z_$@~][\w$:.<>~?!=*-]{0,120}"
_MODIFIERS = (
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|sealed|open|override|virtual|async|"
    r"inline|unsafe|extern(?:\s*\"C\")?|partial|data|case|pub(?:\([^)]{1,40}\))?|const|declare|local|implicit|suspend|"
    r"readonly|mutating|actual|expect|companion|tailrec|pure|elemental|recursive|strictfp|native|synchronized|"
    r"constexpr|consteval|explicit|friend|template\s*<[^>]{0,200}>)\s+){0,8}"
)
_HOLDERS = (
    r"class|interface|trait|struct|enum(?:\s+class)?|union|module|namespace|package|protocol|extension|object|impl|"
    r"record|mixin|contract|library|role|actor|annotation|defmodule"
)
_FUNCTIONS = (
    r"def|defp|defmacro|fn|func|fun|function|sub|subroutine|procedure|proc|macro|type|message|service|rpc|"
    r"task|entity|architecture|workflow|filter|predicate|theorem|lemma|method|constructor"
)
_KNOWN = re.compile(rf"{_MODIFIERS}(?P<kind>{_HOLDERS}|{_FUNCTIONS})\b(?P<rest>.*)")
_GO_RECEIVER = re.compile(r"\s*\((?:\w+\s+)?\*?(?P<type>\w+)[^)]*\)\s*(?P<name>\w+)")
_IMPL = re.compile(r"(?:<[^{]*?>)?\s*(?P<name>[^{]+?)\s*(?:where\b.*)?\{?\s*$")
_FIRST_NAME = re.compile(rf"\*?\s+(?P<name>{_NAME})")
_SQL = re.compile(
    r"(?i)(?:create|alter)\s+(?:or\s+(?:replace|alter)\s+)?(?:(?:unique|temp|temporary|materialized|recursive|global|"
    r"unlogged|external|foreign)\s+){0,3}(?P<kind>table|view|function|procedure|trigger|index|type|schema|sequence|"
    r"package(?:\s+body)?|materialized\s+view|policy|role|extension)\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?"
    r"(?P<name>[\w.\"\[\]`]+)"
)
# `name = function (…) {`, `const name = (…) => {`, `name <- function(…)`: JavaScript, TypeScript, R.
_ASSIGNED = re.compile(
    rf"(?:export\s+)?(?:const\s+|let\s+|var\s+)?(?P<name>{_NAME})\s*(?:=|<-|:)\s*"
    r"(?:async\s+)?(?:function\b|\([^()]*\)\s*(?::[^=]{1,80})?=>|\w+\s*=>\s*\{)"
)
# `type name(arguments) {` of C and its children; `name() {` of shells and of methods in JavaScript.
_CALLABLE = re.compile(
    r"(?P<before>[\w$<>\[\],:*&~ \t]*?[\s*&])?(?P<name>~?[A-Za-z_$][\w$:~]*|operator\S{1,3})\s*"
    r"\((?P<arguments>[^;]*)$"
)
_CONTROL = re.compile(
    r"if|else|for|foreach|while|until|switch|case|catch|try|do|return|throw|new|with|when|match|select|using|lock|"
    r"synchronized|elif|elseif|unless|and|or|not|in|is|await|yield|sizeof|typeof|defined|print|echo|assert|super|this|"
    r"fixed|checked|guard|repeat|loop|default|goto|delete|require|include|import"
)
# Lines that belong to the definition below them.
_ABOVE = re.compile(r"\s*(?:#(?!\s*(?:if|endif|else|include|pragma|define)\b)|//|/\*|\*|--|@|\[[A-Z]|'''|;|%|\"\"\")")

_SECTION = re.compile(r"\s{0,3}\[{1,2}(?P<title>[^\[\]\n]{1,200})\]{1,2}\s*(?:[#;].*)?$")
_KEY = re.compile(r"(?P<title>[A-Za-z_\"'][^:#\n]{0,100}):(?:\s|$)")


def read_code(data: bytes, choices: Choices) -> RawText:
    """Source code, under the path of its classes and functions."""
    text, notes = decode(data, choices)
    text = _one_kind_of_line_end(text)
    raw = read_outline(text, _definitions(text.splitlines(keepends=True)), "lines", min_lines=_MIN_LINES)
    return _noted(raw, notes)


def read_settings(data: bytes, choices: Choices) -> RawText:
    """A file of settings, under its ``[sections]``, or else under its outermost keys."""
    text, notes = decode(data, choices)
    text = _one_kind_of_line_end(text)
    lines = text.splitlines(keepends=True)
    marks = list(marks_by(lines, _section)) or list(marks_by(lines, _key))
    return _noted(read_outline(text, iter(marks), "lines", min_lines=_MIN_LINES), notes)


def read_lines(data: bytes, choices: Choices) -> RawText:
    """A log: lines that are never cut."""
    text, notes = decode(data, choices)
    return RawText([text], "lines", notes=notes)


def _noted(raw: RawText, notes: dict[str, int | str]) -> RawText:
    return RawText(raw.parts, raw.shape, notes=notes, headings=raw.headings, separator=raw.separator)


def _one_kind_of_line_end(text: str) -> str:
    # Parts are cut at line ends, and "\r" and "\n" of one end must not come into two parts.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _section(line: str) -> Mark | None:
    found = _SECTION.match(line)
    return Mark(0, found["title"]) if found else None


def _key(line: str) -> Mark | None:
    found = _KEY.match(line)
    return Mark(0, found["title"].strip("\"'")) if found else None


def _statement(line: str) -> Mark | None:
    found = _SQL.match(line)
    return Mark(0, f"{found['kind'].lower()} {found['name']}") if found else None


def _definitions(lines: list[str]) -> Iterator[Mark]:
    """Definitions that lie in no function, each with the comments and decorators directly above it."""
    if any(_SQL.match(line) for line in lines):
        yield from marks_by(lines, _statement)
        return
    open_: list[Mark] = []
    after = 0
    for i, line in enumerate(lines):
        stripped = line.strip()
        if not stripped or len(line) > _MAX_LINE_CHARS:
            continue
        level = _indentation(line)
        n_open = len(open_)
        while open_ and open_[-1].level >= level and not _closes(stripped):
            open_.pop()
        if open_ and not open_[-1].holds:
            continue
        if found := _definition(stripped, lines, i):
            title, holds = found
            first = _first_line(lines, i, after, level)
            mark = Mark(level, title_of(title), holds, first)
            open_.append(mark)
            after = i + 1
            yield mark
        elif len(open_) < n_open and not _ABOVE.match(line):
            after = i + 1
            yield Mark(level, "", first=i)  # what follows a definition does not belong to it


def _indentation(line: str) -> int:
    expanded = line.expandtabs(_TAB)
    return len(expanded) - len(expanded.lstrip())


def _closes(stripped: str) -> bool:
    """Whether a line at the level of a definition may belong to it: brackets, ``end``, labels of the preprocessor."""
    return stripped[0] in "})]{#" or stripped.lower().startswith(("end", ") ", "where "))


def _first_line(lines: list[str], i: int, after: int, level: int) -> int:
    while i > after and _ABOVE.match(lines[i - 1]) and _indentation(lines[i - 1]) >= level:
        i -= 1
    return i


def _definition(stripped: str, lines: list[str], i: int) -> tuple[str, bool] | None:
    """Name of the definition that this line begins, and whether it may hold others."""
    if known := _KNOWN.match(stripped):
        return _known(known)
    if assigned := _ASSIGNED.match(stripped):
        return assigned["name"], False
    called = _CALLABLE.match(stripped)
    if not called or _CONTROL.fullmatch(called["name"]) or not _opens_body(lines, i):
        return None
    before = (called["before"] or "").split()
    return None if before and _CONTROL.fullmatch(before[0]) else (called["name"], False)


def _known(known: re.Match[str]) -> tuple[str, bool] | None:
    kind, rest = known["kind"], known["rest"]
    if kind == "impl":
        named = _IMPL.match(rest)
        return (named["name"], True) if named else None
    if kind == "func" and (received := _GO_RECEIVER.match(rest)):
        return f"{received['type']}.{received['name']}", False
    named = _FIRST_NAME.match(rest)
    if not named:
        return None
    after = rest[named.end() :].lstrip()
    # "type = x", "class: y", "package a.b;", "struct point p;", "object is …": words in other roles.
    if after.startswith((";", "=", ",", ")")) and kind not in ("type", "fun", "def", "class", "enum"):
        return None
    return named["name"].rstrip(":"), re.fullmatch(_HOLDERS, kind) is not None


def _opens_body(lines: list[str], i: int) -> bool:
    """Whether the lines from this one on open a block before a statement ends."""
    for line in lines[i : i + 12]:
        code = line.split("//", 1)[0].rstrip()
        if code.endswith("{"):
            return True
        if code.endswith((";", ",")) and not code.endswith(","):
            return False
        if code.endswith("}"):
            return "{" in code and ")" in code
    return False
