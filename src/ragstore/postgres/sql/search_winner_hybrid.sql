-- Reciprocal rank fusion: what counts is the place in each list, because the scores have no common scale. Two things
-- are known without a scale: a vector at nearly a right angle says nothing, and a word that stands in up to a few nodes of
-- thousands says all: such a node counts as if it had its place among those nodes in both lists.
placed AS (
    SELECT
        tid, node_id,
        CASE WHEN distance < 1 - %(min_cosine)s THEN
            %(dense_weight)s::float8 / (%(rrf_k)s + row_number() OVER (ORDER BY distance, node_id COLLATE "C"))
        ELSE 0 END AS part
    FROM dense
    UNION ALL
    SELECT tid, node_id, 1::float8 / (%(rrf_k)s + row_number() OVER (ORDER BY rank DESC, node_id COLLATE "C"))
    FROM keyword
),
sole AS (
    SELECT
        tid,
        (1 + %(dense_weight)s::float8)
        / (%(rrf_k)s + row_number() OVER (ORDER BY rank DESC, node_id COLLATE "C")) AS score
    FROM keyword WHERE is_sole
),
winner AS MATERIALIZED (
    SELECT fused.tid, greatest(fused.score, sole.score) AS score
    FROM (SELECT tid, node_id, sum(part) AS score FROM placed GROUP BY tid, node_id) AS fused
    LEFT JOIN sole USING (tid)
    ORDER BY score DESC, fused.node_id COLLATE "C"
    LIMIT %(k)s
)
