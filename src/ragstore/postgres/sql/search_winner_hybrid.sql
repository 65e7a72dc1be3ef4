-- Reciprocal rank fusion: what counts is the place in each list, because the scores have no common scale.
placed AS (
    SELECT
        tid, node_id,
        %(dense_weight)s::float8 / (%(rrf_k)s + row_number() OVER (ORDER BY distance, node_id COLLATE "C")) AS part
    FROM dense
    UNION ALL
    SELECT tid, node_id, 1::float8 / (%(rrf_k)s + row_number() OVER (ORDER BY rank DESC, node_id COLLATE "C"))
    FROM keyword
),
winner AS MATERIALIZED (
    SELECT tid, sum(part) AS score FROM placed
    GROUP BY tid, node_id
    ORDER BY score DESC, node_id COLLATE "C"
    LIMIT %(k)s
)
