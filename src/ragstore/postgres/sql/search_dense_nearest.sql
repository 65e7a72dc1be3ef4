-- The nearest of the segments and of the fresh nodes together; of these, those that the condition allows answer.
{candidate},
near_id AS MATERIALIZED (
    SELECT id FROM (
        SELECT id, distance FROM candidate
        UNION ALL
        SELECT id, {exact_distance} - 1 FROM {fresh}
    ) AS near_or_fresh
    ORDER BY distance
    LIMIT %(n_near)s
),
-- OFFSET keeps these few from being looked for by an index on what the condition names, which may have no statistics yet.
dense AS MATERIALIZED (
    SELECT tid, node_id, {exact_distance} AS distance
    FROM (SELECT ctid AS tid, * FROM {table} WHERE id = ANY (ARRAY(SELECT id FROM near_id)) OFFSET 0) AS near_row
    WHERE {condition}
    ORDER BY distance, node_id COLLATE "C"
    LIMIT %(n_dense)s
),
dense_state AS (SELECT (SELECT count(*) FROM dense) >= %(k)s AS complete)
