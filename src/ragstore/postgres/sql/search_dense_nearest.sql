-- The nearest of each segment by its HNSW index, and the fresh nodes; of these, those that the condition allows answer.
dense AS MATERIALIZED (
    SELECT tid, node_id, {candidate_distance} AS distance
    FROM (
        SELECT * FROM (
            {near}
        ) AS of_all
        ORDER BY index_distance
        LIMIT %(n_near)s
    ) AS near
    WHERE {condition}
    ORDER BY distance, node_id COLLATE "C"
    LIMIT %(n_dense)s
),
dense_state AS (SELECT (SELECT count(*) FROM dense) >= %(k)s AS complete)
