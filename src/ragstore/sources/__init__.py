"""Sources of documents: listing of local files, and a reader of each format that returns clean text."""

from ragstore.sources.bounds import Bounds, read_path
from ragstore.sources.listing import Listing, Unlistable, walk

__all__ = ["Bounds", "Listing", "Unlistable", "read_path", "walk"]
