-- Every allowed node by distance: no index on the vectors, nothing missed.
dense AS MATERIALIZED (
    SELECT ctid AS tid, node_id, {exact_distance} AS distance
    FROM {table}
    WHERE {condition}
    ORDER BY distance, node_id COLLATE "C"
    LIMIT %(n_dense)s
),
dense_state AS (SELECT true AS complete)
