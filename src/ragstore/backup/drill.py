"""Drill: comparison of a restored backup with what was stored when it was made, and the report of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ragstore.errors import UsageError
from ragstore.model.backup import Manifest, SampleQuestion
from ragstore.model.drill import DrillCheck, DrillReport

MIN_FOUND = 0.95
"""Least share of the exact hits that the restored indexes must find; they find some 0.985."""

_SAME_SCORE = 1e-4
_LAST_SUCCESS = "ragstore_drill_last_success_timestamp_seconds"

Search = Callable[[str, Sequence[float], int], list[tuple[str, float]]]
"""Nodes that a collection's search by vector finds, at most so many: id and cosine similarity, best first."""


def compare_questions(manifest: Manifest, search: Search) -> DrillCheck:
    """Ask the stored questions again."""
    n_expected = n_found = n_questions = 0
    without = [each.name for each in manifest.collections if not each.questions]
    for collection in manifest.collections:
        for question in collection.questions:
            hits = search(collection.name, question.vector, len(question.node_ids))
            n_questions += 1
            n_expected += len(question.node_ids)
            n_found += _n_as_good(question, hits)
    if not n_questions:
        return DrillCheck(
            "questions", "could_not_run", "the backup has no stored question: its collections have no vectors"
        )
    share = n_found / n_expected
    detail = f"{n_questions} stored questions: {n_found} of {n_expected} exact hits found"
    if without:
        detail += f"; none stored for {', '.join(without)}, without vectors"
    return DrillCheck("questions", "passed" if share >= MIN_FOUND else "failed", detail)


def _n_as_good(question: SampleQuestion, hits: Sequence[tuple[str, float]]) -> int:
    """How many hits were among the exact ones, or are as near: of equal texts any may be named."""
    worst = 1.0 - question.distances[-1]
    expected = set(question.node_ids)
    return min(len(expected), sum(node_id in expected or score >= worst - _SAME_SCORE for node_id, score in hits))


def compare_own(sample: Sequence[tuple[str, str, Sequence[float]]], search: Search) -> DrillCheck:
    """Look whether nodes are found by their own vectors.

    Args:
        sample: collection, node id and vector of each.
    """
    lost = []
    for collection, node_id, vector in sample:
        hits = search(collection, vector, 1)
        if not any(found == node_id or score >= 1.0 - _SAME_SCORE for found, score in hits):
            lost.append(f"{collection}/{node_id}")
    if not sample:
        return DrillCheck("own_vectors", "could_not_run", "no node has a vector")
    detail = f"{len(sample) - len(lost)} of {len(sample)} sampled nodes are found by their own vectors"
    if lost:
        return DrillCheck("own_vectors", "failed", f"{detail}; not {', '.join(lost[:5])}")
    return DrillCheck("own_vectors", "passed", detail)


def write_report(report: DrillReport, path: Path, as_json: bytes) -> list[Path]:
    """Write the report as JSON and as Markdown, beside each other; returns both paths.

    Raises:
        UsageError: the folder cannot be written.
    """
    paths = [path.with_suffix(".json"), path.with_suffix(".md")]
    _replace(paths[0], as_json)
    _replace(paths[1], "\n".join(markdown(report)).encode() + b"\n")
    return paths


def markdown(report: DrillReport) -> list[str]:
    """The report as a page."""
    said = {"passed": "passed", "failed": "FAILED", "could_not_run": "COULD NOT RUN"}
    facts = [
        ("target", report.target),
        ("backup", report.backup or "none"),
        ("moment of the data", report.made_at or "unknown"),
        ("age of the data", _duration(report.data_age_s)),
        ("time to recover", _duration(report.recovery_s)),
        ("documents, nodes", f"{report.documents:,}, {report.nodes:,}"),
    ]
    lines = [f"# Restore drill of {report.at}: {said[report.outcome]}", "", "| what | seen |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts]
    lines += ["", "| check | outcome | what was seen |", "| --- | --- | --- |"]
    lines += [f"| {c.name.replace('_', ' ')} | {said[c.outcome]} | {_cell(c.detail)} |" for c in report.checks]
    return lines


def write_metrics(report: DrillReport, path: Path, now_s: float) -> None:
    """Write metrics for Prometheus' textfile collector; the time of the last success of a former file stays.

    Raises:
        UsageError: the folder cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, meaning: str, value: float | None) -> None:
        if value is not None:
            Gauge(name, meaning, registry=registry).set(value)

    gauge("ragstore_drill_success", "1 if the last drill passed, else 0", float(report.ok))
    gauge("ragstore_drill_last_run_timestamp_seconds", "end of the last drill", now_s)
    gauge(_LAST_SUCCESS, "end of the last drill that passed, 0 before it", now_s if report.ok else _former(path))
    gauge("ragstore_drill_data_age_seconds", "age of the data of the newest backup", report.data_age_s)
    gauge("ragstore_drill_recovery_seconds", "time until both stores were ready", report.recovery_s)
    checks = Gauge("ragstore_drill_checks", "checks of the last drill", ["outcome"], registry=registry)
    for outcome, n in report.count().items():
        checks.labels(outcome).set(n)
    _replace(path, generate_latest(registry))


def _former(path: Path) -> float:
    with suppress(OSError, ValueError):
        found = re.search(rf"^{_LAST_SUCCESS} (\S+)$", path.read_text(), re.MULTILINE)
        if found:
            return float(found[1])
    return 0.0


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder that is there"
        ) from error


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
