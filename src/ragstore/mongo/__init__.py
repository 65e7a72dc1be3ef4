"""MongoDB: the only place with pymongo."""
