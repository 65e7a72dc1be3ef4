"""Brings both databases to the schema that this program needs; the only place that issues DDL."""
