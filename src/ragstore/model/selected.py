"""Names of files and folders that are left out of what is ingested by default."""

from __future__ import annotations

LEFT_OUT_FOLDERS = (".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__")
LEFT_OUT_FILES = (
    "~$*", ".~lock.*#", ".DS_Store", "Thumbs.db", "desktop.ini", "*.tmp", "*.part", "*.crdownload", "*.swp", "*~",
)  # fmt: skip
"""Names of files of programs, not of people: locks, caches, unfinished downloads."""
