"""Runbooks: each command of each page is executed, on a stack that was put into the state that the page is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.runbooks.pages import FOLDER, SECTIONS, Page, all_pages
from tests.runbooks.scenes import SCENES, answers, until_in_sync, write_documents
from tests.support.compose import Stack, a_stack, need_engine

FIRST = "first-deployment"
STACKS = {
    "servers": ("postgres-down", "mongo-down", "passwords", "mongo-lost", "postgres-lost", "restore", "upgrade"),
    "documents": (
        "drift",
        "quarantine",
        "refused",
        "wrong-deletion",
        "worker-hangs",
        "worker-restarts",
        "more-workers",
        "slow-questions",
    ),
}
PAGES = all_pages()
ALERTS = FOLDER.parent / "observability/alerts.yaml"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", STACKS)
def test_each_page_mends_what_it_is_for(kind: str, tmp_path: Path, subtests: pytest.Subtests) -> None:
    need_engine()
    with a_stack(tmp_path, options={"WORKER_EVERY_S": "3"}, is_prepared=False) as stack:
        stack.documents.mkdir()
        write_documents(stack)
        follow(stack, PAGES[FIRST], {})
        until_in_sync(stack)
        before = answers(stack)
        assert all(before)
        for name in STACKS[kind]:
            with subtests.test(page=name):
                follow(stack, PAGES[name], SCENES[name](stack))
                until_in_sync(stack)
                assert answers(stack) == before


def follow(stack: Stack, page: Page, values: dict[str, str]) -> None:
    """Do what the page says, from its check to its undoing."""
    for section in SECTIONS:
        for command in page.commands(section):
            ran = stack.run("bash", "-c", f"set -o pipefail; {command.line}", check=False, values=values)
            said = f"{page.name}, {section}: {command.line}\nended with {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
            assert ran.returncode == command.status, said


def test_each_page_has_a_scene_and_all_sections_in_order() -> None:
    assert set(PAGES) == {FIRST, *SCENES} == {FIRST, *(name for names in STACKS.values() for name in names)}
    for page in PAGES.values():
        assert tuple(page.sections) == SECTIONS, page.name
        assert page.commands("Check") and page.commands("Do"), page.name
        assert page.commands("Verify"), f"{page.name} does not say how to see that it helped"
        assert all(command.status == 0 for command in page.commands("Verify")), page.name


def test_the_overview_names_each_page_once() -> None:
    named = re.findall(r"^\| \[([\w-]+)\]\(([\w-]+)\.md\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(title for title, _ in named) == sorted(PAGES)
    assert all(title == target for title, target in named)


def test_each_alert_names_a_page_that_is_there() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        for store in ("postgres", "mongo"):
            runbook = Path(rule["annotations"]["runbook"].replace("{{ $labels.store }}", store))
            assert runbook.parent == Path("stack/runbooks") and runbook.stem in PAGES, rule["alert"]
