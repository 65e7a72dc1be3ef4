"""Ingest, from source to document, chunks and nodes: finds changes and hands whole revisions to the protocol."""
