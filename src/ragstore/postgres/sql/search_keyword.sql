-- Nodes that hold any word of the question. Rare words say more than common ones: they weigh more (by the logarithm
-- of how rare, in three groups, because a weight for each word would cost a ts_rank for each), and they alone choose
-- which nodes are ranked as long as those are enough, so that a word of every node does not make every node a candidate.
word AS MATERIALIZED (
    SELECT
        '''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''' AS quoted,
        COALESCE(known.frequency, 0.001) AS frequency,
        ln(1 + 1 / COALESCE(known.frequency, 0.001)) AS weight,
        row_number() OVER rarest_first AS position,
        sum(COALESCE(known.frequency, 0) * size.reltuples) OVER rarest_first AS n_nodes
    FROM unnest(to_tsvector(%(config)s::regconfig, %(text)s))
    CROSS JOIN (SELECT reltuples FROM pg_class WHERE oid = '{table}'::regclass) AS size
    LEFT JOIN (
        SELECT element, frequency
        FROM pg_stats, unnest(most_common_elems::text::text[], most_common_elem_freqs) AS common (element, frequency)
        WHERE schemaname = 'ragstore' AND tablename = %(table_name)s AND attname = 'text_search_tsv'
    ) AS known ON known.element = lexeme
    WINDOW rarest_first AS (ORDER BY known.frequency NULLS FIRST, lexeme)
),
question AS MATERIALIZED (
    SELECT
        string_agg(quoted, ' | ')::tsquery AS every_word,
        string_agg(quoted, ' | ') FILTER (WHERE position = 1 OR n_nodes <= %(max_chosen)s)::tsquery AS rarer_words,
        string_agg(quoted, ' | ') FILTER (WHERE frequency <= 0.01)::tsquery AS rare,
        string_agg(quoted, ' | ') FILTER (WHERE frequency > 0.01 AND frequency <= 0.1)::tsquery AS usual,
        string_agg(quoted, ' | ') FILTER (WHERE frequency > 0.1)::tsquery AS common,
        sum(weight) FILTER (WHERE frequency <= 0.01) / sum(weight) AS rare_weight,
        sum(weight) FILTER (WHERE frequency > 0.01 AND frequency <= 0.1) / sum(weight) AS usual_weight,
        sum(weight) FILTER (WHERE frequency > 0.1) / sum(weight) AS common_weight
    FROM word
),
with_rarer_words AS MATERIALIZED (
    SELECT ctid AS tid FROM {table}
    WHERE text_search_tsv @@ (SELECT rarer_words FROM question) AND {condition}
    LIMIT %(max_ranked)s
),
with_any_word AS MATERIALIZED (
    SELECT ctid AS tid FROM {table}
    WHERE
        text_search_tsv @@ (SELECT every_word FROM question WHERE every_word <> rarer_words)
        AND (SELECT count(*) FROM with_rarer_words) < %(k)s
        AND {condition}
    LIMIT %(max_ranked)s
),
keyword AS MATERIALIZED (
    SELECT
        node.ctid AS tid, node.node_id,
        -- 1: divided by 1 + the logarithm of the length
        COALESCE(question.rare_weight * ts_rank(node.text_search_tsv, question.rare, 1), 0)
        + COALESCE(question.usual_weight * ts_rank(node.text_search_tsv, question.usual, 1), 0)
        + COALESCE(question.common_weight * ts_rank(node.text_search_tsv, question.common, 1), 0) AS rank
    FROM question CROSS JOIN {table} AS node
    WHERE node.ctid = ANY (ARRAY(SELECT tid FROM with_rarer_words UNION SELECT tid FROM with_any_word))
    ORDER BY rank DESC, node.node_id COLLATE "C"
    LIMIT %(n_keyword)s
)
