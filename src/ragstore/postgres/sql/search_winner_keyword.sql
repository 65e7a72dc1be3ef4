winner AS MATERIALIZED (SELECT tid, rank AS score FROM keyword ORDER BY rank DESC, node_id COLLATE "C" LIMIT %(k)s)
