"""The composition root: settings → pools → services."""
