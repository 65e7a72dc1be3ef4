"""Embedding models: text in, float32 vectors out, the same face for models here and behind HTTP."""
