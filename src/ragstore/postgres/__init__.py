"""PostgreSQL: the only place with SQL and psycopg2."""
