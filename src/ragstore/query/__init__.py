"""Questions to a collection: search, filters, and answers written by a language model."""
