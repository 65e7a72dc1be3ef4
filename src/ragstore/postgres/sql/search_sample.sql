(
        -- Forty stretches of the table, of some thousands of rows together: a word may stand in one region alone.
        SELECT found.tid
        FROM (
            SELECT
                pg_relation_size(oid) / current_setting('block_size')::bigint AS n_pages,
                ceil(%(max_looked_at)s / 40.0 / greatest(reltuples / greatest(relpages, 1), 1))::bigint AS width
            FROM pg_class WHERE oid = '{table}'::regclass
        ) AS size
        CROSS JOIN generate_series(0, 39) AS stretch
        CROSS JOIN LATERAL (
            SELECT ctid AS tid FROM {table}
            WHERE
                ctid >= format('(%%s,0)', n_pages * stretch / 40)::tid
                AND ctid < format('(%%s,0)', least(n_pages * stretch / 40 + width, n_pages * (stretch + 1) / 40))::tid
                -- as a function, which no index serves
                AND ts_match_vq(text_search_tsv, (SELECT common_words FROM question))
            OFFSET 0
        ) AS found
    )
