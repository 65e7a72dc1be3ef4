"""Embedding models that turn text into float32 vectors, with one interface for local and remote models."""

from __future__ import annotations

from ragstore.embedding.catalog import load
from ragstore.embedding.embedder import Embedder, ModelOptions

__all__ = ["Embedder", "ModelOptions", "load"]
