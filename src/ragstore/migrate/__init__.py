"""Migrations of both databases to the schema that this program needs; only migrations change the schema."""
