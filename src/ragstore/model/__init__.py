"""Value types for the terms of ragstore, without input or output."""
