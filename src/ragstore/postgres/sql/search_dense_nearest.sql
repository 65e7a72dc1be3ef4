-- The nearest of all nodes by the HNSW index, of which those that the condition allows answer.
dense AS MATERIALIZED (
    SELECT tid, node_id, {candidate_distance} AS distance
    FROM (
        SELECT ctid AS tid, node_id, document_id, user_metadata, embedding, {index_distance} AS index_distance
        FROM {table}
        ORDER BY index_distance
        LIMIT %(n_near)s
    ) AS near
    WHERE {condition}
    ORDER BY distance, node_id COLLATE "C"
    LIMIT %(n_dense)s
),
dense_state AS (SELECT (SELECT count(*) FROM dense) >= %(k)s AS complete)
