-- Nodes that hold any word of the question. Rare words say more than common ones: they weigh more (by the logarithm
-- of how rare, in five groups, because a weight for each word would cost a ts_rank for each), and they choose which nodes
-- are ranked. How rare a word is stands in the table's statistics; one that does not, is too rare for them and counted.
-- What a search costs has a bound at any size of the table: it ranks some hundreds of nodes; it reads from the index
-- lists of some 10,000 nodes together; and words that are more common are looked for in a sample of the rows.
word AS MATERIALIZED (
    SELECT
        quoted, frequency, is_sole,
        -- A name as a whole: more than its parts together, also where these stand in a much shorter text.
        ln(1 + 1 / frequency) * CASE WHEN is_whole THEN 8 ELSE 1 END AS weight,
        CASE WHEN is_whole THEN 0 WHEN frequency <= 0.0003 THEN 1 WHEN frequency <= 0.003 THEN 2 WHEN frequency <= 0.03 THEN 3 ELSE 4 END
            AS rarity,
        row_number() OVER rarest_first AS position,
        sum(frequency * n_nodes) OVER rarest_first AS n_nodes
    FROM (
        SELECT
            quoted, size.n_nodes, quoted ~ '[-_./:@+]' AND quoted ~ '[0-9_./:@+]' AS is_whole,
            COALESCE(known.frequency, counted.n / size.n_nodes) AS frequency,
            counted.n BETWEEN 1 AND %(max_sole)s AND size.reltuples >= %(min_for_sole)s AS is_sole
        FROM (
            SELECT lexeme, '''' || replace(replace(lexeme, E'\\', E'\\\\'), '''', '''''') || '''' AS quoted
            FROM unnest(ragstore.words(%(config)s::regconfig, %(text)s, true))
        ) AS asked
        CROSS JOIN (
            SELECT reltuples, greatest(reltuples, 1000)::float8 AS n_nodes FROM pg_class WHERE oid = '{table}'::regclass
        ) AS size
        LEFT JOIN (
            SELECT element, frequency
            FROM
                pg_stats,
                unnest(most_common_elems::text::text[], most_common_elem_freqs) AS common (element, frequency)
            WHERE schemaname = 'ragstore' AND tablename = %(table_name)s AND attname = 'text_search_tsv'
        ) AS known ON known.element = lexeme
        LEFT JOIN LATERAL (
            SELECT count(*) AS n
            FROM (
                SELECT FROM {table} WHERE known.element IS NULL AND text_search_tsv @@ quoted::tsquery
                LIMIT %(max_counted)s
            ) AS holding
        ) AS counted ON true
    ) AS rated
    WHERE frequency > 0
    WINDOW rarest_first AS (ORDER BY frequency, quoted COLLATE "C")
),
question AS MATERIALIZED (
    SELECT
        string_agg(quoted, ' | ') FILTER (WHERE n_nodes <= %(max_chosen)s)::tsquery AS rarest_words,
        string_agg(quoted, '') FILTER (WHERE position = 1 AND n_nodes BETWEEN %(max_chosen)s AND %(max_listed)s)::tsquery
            AS first_word,
        string_agg(quoted, ' & ') FILTER (WHERE n_nodes <= %(max_listed)s)::tsquery AS together,
        string_agg(quoted, ' | ') FILTER (WHERE position > 1 AND n_nodes <= %(max_listed)s)::tsquery AS other_words,
        string_agg(quoted, ' | ') FILTER (WHERE n_nodes > %(max_listed)s)::tsquery AS common_words,
        string_agg(quoted, ' | ') FILTER (WHERE is_sole)::tsquery AS sole_words,
        string_agg(quoted, ' | ') FILTER (WHERE rarity = 0)::tsquery AS words_0,
        string_agg(quoted, ' | ') FILTER (WHERE rarity = 1)::tsquery AS words_1,
        string_agg(quoted, ' | ') FILTER (WHERE rarity = 2)::tsquery AS words_2,
        string_agg(quoted, ' | ') FILTER (WHERE rarity = 3)::tsquery AS words_3,
        string_agg(quoted, ' | ') FILTER (WHERE rarity = 4)::tsquery AS words_4,
        sum(weight) FILTER (WHERE rarity = 0) / sum(weight) AS weight_0,
        sum(weight) FILTER (WHERE rarity = 1) / sum(weight) AS weight_1,
        sum(weight) FILTER (WHERE rarity = 2) / sum(weight) AS weight_2,
        sum(weight) FILTER (WHERE rarity = 3) / sum(weight) AS weight_3,
        sum(weight) FILTER (WHERE rarity = 4) / sum(weight) AS weight_4
    FROM word
),
-- Those that have more of the words come first, where not all can be ranked.
with_every_word AS MATERIALIZED (
    SELECT ctid AS tid FROM {table}
    WHERE text_search_tsv @@ (SELECT together FROM question WHERE other_words IS NOT NULL) AND {condition}
    LIMIT %(max_ranked)s
),
with_two_words AS MATERIALIZED (
    SELECT ctid AS tid FROM {table}
    WHERE text_search_tsv @@ (SELECT first_word && other_words FROM question) AND {condition}
    LIMIT %(max_ranked)s
),
with_rarest_words AS MATERIALIZED (
    SELECT ctid AS tid FROM {table}
    WHERE
        text_search_tsv @@ (SELECT COALESCE(rarest_words, first_word) FROM question)
        AND (SELECT count(*) FROM with_two_words) < %(max_ranked)s / 2
        AND {condition}
    LIMIT %(max_ranked)s
),
with_other_words AS MATERIALIZED (
    SELECT ctid AS tid FROM {table}
    WHERE
        text_search_tsv @@ (SELECT other_words FROM question WHERE rarest_words IS NOT NULL)
        AND (SELECT count(*) FROM with_rarest_words) < %(k)s
        AND {condition}
    LIMIT %(n_fill)s
),
with_common_words AS MATERIALIZED (
    SELECT tid
    FROM {with_common_words} AS common
    WHERE
        (
            (SELECT count(*) FROM with_two_words) + (SELECT count(*) FROM with_rarest_words)
            + (SELECT count(*) FROM with_other_words)
        ) < %(k)s
    LIMIT CASE WHEN EXISTS (SELECT FROM with_rarest_words) THEN %(n_fill)s ELSE %(max_ranked)s END
),
-- Where the statistics are wrong about a word.
with_words_after_all AS MATERIALIZED (
    SELECT ctid AS tid FROM {table}
    WHERE
        text_search_tsv @@ (SELECT common_words FROM question)
        AND NOT EXISTS (SELECT FROM with_two_words) AND NOT EXISTS (SELECT FROM with_rarest_words)
        AND NOT EXISTS (SELECT FROM with_other_words) AND NOT EXISTS (SELECT FROM with_common_words)
        AND {condition}
    LIMIT %(max_ranked)s
),
keyword AS MATERIALIZED (
    SELECT
        tid, node_id, COALESCE(words @@ question.sole_words, false) AS is_sole,
        -- 1: divided by 1 + the logarithm of the length
        COALESCE(question.weight_0 * ts_rank(words, question.words_0, 1), 0)
        + COALESCE(question.weight_1 * ts_rank(words, question.words_1, 1), 0)
        + COALESCE(question.weight_2 * ts_rank(words, question.words_2, 1), 0)
        + COALESCE(question.weight_3 * ts_rank(words, question.words_3, 1), 0)
        + COALESCE(question.weight_4 * ts_rank(words, question.words_4, 1), 0) AS rank
    FROM question CROSS JOIN (
        -- A copy in memory: reading a long value from beside its row costs more than all that is done with it.
        SELECT ctid AS tid, node_id, text_search_tsv || '' AS words
        FROM {table}
        WHERE
            ctid = ANY (
                ARRAY(
                    SELECT tid FROM with_every_word UNION SELECT tid FROM with_two_words UNION SELECT tid FROM with_rarest_words
                    UNION SELECT tid FROM with_other_words UNION SELECT tid FROM with_common_words
                    UNION SELECT tid FROM with_words_after_all
                )
            )
        OFFSET 0
    ) AS node
    ORDER BY rank DESC, node_id COLLATE "C"
    LIMIT %(n_keyword)s
)
