"""Processes that live long: workers, upkeep, and what they tell about themselves."""
