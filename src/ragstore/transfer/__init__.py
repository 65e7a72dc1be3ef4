"""Import, adopt and export: exchange of collections with plain LlamaIndex."""
