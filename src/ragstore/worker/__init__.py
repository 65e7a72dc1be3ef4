"""Long-running processes: worker, upkeep, and their health and metrics."""
