"""``python -m ragstore`` is the same as ``ragstore``."""

from __future__ import annotations

import sys

from ragstore.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
