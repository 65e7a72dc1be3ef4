"""PostgreSQL and MongoDB run by ragstore itself, under a home folder, for people who have no servers."""
