-- As nearest; where too few of the nearest are allowed, every allowed node by distance, unless they are too many.
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
near AS MATERIALIZED (
    SELECT tid, node_id, {exact_distance} AS distance
    FROM (SELECT ctid AS tid, * FROM {table} WHERE id = ANY (ARRAY(SELECT id FROM near_id)) OFFSET 0) AS near_row
    WHERE {condition}
    ORDER BY distance, node_id COLLATE "C"
    LIMIT %(n_dense)s
),
few AS MATERIALIZED (
    SELECT ctid AS tid, node_id, {exact_distance} AS distance FROM {table}
    WHERE {condition} AND (SELECT count(*) FROM near) < %(k)s
    LIMIT %(max_few)s + 1
),
dense AS MATERIALIZED (
    SELECT tid, node_id, distance FROM near WHERE (SELECT count(*) FROM near) >= %(k)s
    UNION ALL
    (
        SELECT tid, node_id, distance FROM few
        WHERE (SELECT count(*) FROM few) <= %(max_few)s
        ORDER BY distance, node_id COLLATE "C"
        LIMIT %(n_dense)s
    )
),
dense_state AS (SELECT (SELECT count(*) FROM few) <= %(max_few)s AS complete)
