"""Logs, and the places where tests may kill the process."""
