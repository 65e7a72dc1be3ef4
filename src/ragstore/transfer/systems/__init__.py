"""Readers of other systems: vector stores, and the key-value stores of LlamaIndex's document and index stores."""
