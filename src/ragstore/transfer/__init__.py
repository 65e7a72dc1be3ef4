"""Import, adopt and export: collections that come from, or go to, plain LlamaIndex."""
