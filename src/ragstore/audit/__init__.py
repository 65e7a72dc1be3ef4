"""What is in a collection, and how it came there."""
