"""Embedding models: text in, float32 vectors out, the same face for models here and behind HTTP."""

from __future__ import annotations

from ragstore.embedding.catalog import load
from ragstore.embedding.embedder import Embedder, ModelOptions

__all__ = ["Embedder", "ModelOptions", "load"]
