"""Backup, restore and drill: one PostgreSQL snapshot in write-once objects, from which both stores are made again."""
