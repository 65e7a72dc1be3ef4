"""Where documents come from: listing local files, and reading each format to clean text."""
