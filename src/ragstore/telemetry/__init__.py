"""Structured logs, and failpoints at which tests kill the process."""
