"""One clean process that has imported what children need, from which each of them is forked."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "llama_index.core",
        "llama_index.storage.docstore.mongodb",
        "llama_index.storage.index_store.mongodb",
        "llama_index.vector_stores.postgres",
        "motor.motor_asyncio",
        "numpy.random",
        "pymongo.auth",
        "pymongo.daemon",
        "pymongo.encryption",
        "pymongo.mongo_client",
        "pytest",
        "ragstore.app.audit_session",
        "ragstore.app.writer",
        "ragstore.audit.repair",
        "ragstore.embedding.wordllama_model",
        "ragstore.ingest.parse_child",
        "ragstore.ingest.pipeline",
        "ragstore.llama",
        "tests.crash.forked",
        "tests.crash.unprotected",
        "tests.support.plain_children",
        "tests.support.plain_stack",
        "tests.support.transfers",
    ]
)

_ROOT = Path(__file__).resolve().parents[2]


def a_process(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """A process that calls this, not yet started."""
    with pytest.MonkeyPatch.context() as patched:
        # The process that forks looks for modules of tests/ where this one does.
        patched.setenv("PYTHONPATH", str(_ROOT))
        forkserver.ensure_running()
    return context.Process(target=target, args=arguments)
