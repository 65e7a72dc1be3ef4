"""MongoDB side of the store; with ``embedded`` and ``llama`` the only packages that use pymongo."""
