-- The nearest of the segments and of the fresh nodes together; of these, those that the condition allows answer.
{candidate},
near_id AS MATERIALIZED (
    SELECT id FROM (
        SELECT id, distance FROM candidate
        UNION ALL
        SELECT id, {exact_distance} - 1 FROM {table} WHERE {fresh}
    ) AS near_or_fresh
    ORDER BY distance
    LIMIT %(n_near)s
),
dense AS MATERIALIZED (
    SELECT ctid AS tid, node_id, {exact_distance} AS distance
    FROM {table}
    WHERE id = ANY (ARRAY(SELECT id FROM near_id)) AND {condition}
    ORDER BY distance, node_id COLLATE "C"
    LIMIT %(n_dense)s
),
dense_state AS (SELECT (SELECT count(*) FROM dense) >= %(k)s AS complete)
