"""Two databases, one atomic index: production storage for LlamaIndex on PostgreSQL + pgvector and MongoDB."""

__version__ = "0.1.0"
