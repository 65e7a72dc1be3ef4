"""Amounts of work of a run: the full scale, and a small one to try every row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Amounts of work of one run.

    Args:
        stored: nodes stored at once in rows 1 and 2.
        small, large, huge: nodes of the collections of synthetic vectors.
        grown: sizes at which the picture's costs are measured, the last is ``large``.
        plain_nodes: nodes given to the plain stack in its slow way.
        files: small files of row 4; plain_files: how many of them the plain pipeline gets.
        text_bytes: real text of row 3.
        questions: of rows 6 and 7.
        asked_at_once: questions of eight threads together.
        document_nodes, plain_document_nodes: of the documents that row 9 deletes.
        memory_files, memory_nodes: two sizes each, to compare peak memory at.
        index_min_nodes: the option's value, None for the one that is set.
    """

    stored: int = 10_000
    dims: tuple[int, ...] = (256, 1_536)
    small: int = 1_000
    large: int = 100_000
    huge: int = 200_000
    grown: tuple[int, ...] = (1_000, 10_000, 50_000, 100_000)
    plain_nodes: int = 400
    files: int = 10_000
    plain_files: int = 2_000
    text_bytes: int = 8_000_000
    questions: int = 200
    asked_at_once: int = 1_000
    document_nodes: int = 1_600
    plain_document_nodes: int = 160
    memory_files: tuple[int, int] = (3_000, 10_000)
    memory_nodes: tuple[int, int] = (2_500, 10_000)
    index_min_nodes: int | None = None


FULL = Scale()
QUICK = Scale(
    stored=500,
    small=500,
    large=2_000,
    huge=4_000,
    grown=(500, 2_000),
    plain_nodes=30,
    files=300,
    plain_files=60,
    text_bytes=500_000,
    questions=20,
    asked_at_once=80,
    document_nodes=200,
    plain_document_nodes=20,
    memory_files=(100, 300),
    memory_nodes=(200, 600),
    index_min_nodes=1_000,
)
