"""LlamaIndex's three stores on ragstore: drop-in, atomic across both databases."""
