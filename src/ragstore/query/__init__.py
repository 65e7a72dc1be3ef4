"""Questions and their hits, and answers written from them."""
