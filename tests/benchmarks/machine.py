"""What the bench ran on, without a name by which somebody would know the machine."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import psutil

import ragstore

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench


def described(bench: Workbench) -> dict[str, str]:
    """Versions and sizes, in words."""
    ((postgres, pgvector),) = bench.sql(
        "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
    )
    return {
        "ragstore": ragstore.__version__,
        "Python": platform.python_version(),
        "PostgreSQL": str(postgres).split()[0],
        "pgvector": str(pgvector),
        "mongod": str(bench.client.server_info()["version"]),
        "CPUs": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }
