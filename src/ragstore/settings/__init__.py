"""Options: where they come from, what they may be, and what is said when one is wrong."""
