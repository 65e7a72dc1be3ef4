winner AS MATERIALIZED (SELECT tid, 1 - distance AS score FROM dense ORDER BY distance, node_id COLLATE "C" LIMIT %(k)s)
