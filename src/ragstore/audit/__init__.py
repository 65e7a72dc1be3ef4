"""Verify and repair: comparison of both stores with the ledger, and removal of drift."""
