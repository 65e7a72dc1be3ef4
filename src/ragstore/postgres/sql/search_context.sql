(
            SELECT jsonb_agg(jsonb_build_array(near.start_char, near.end_char, near.text) ORDER BY near.ordinal, near.id)
            FROM {table} AS near
            WHERE
                near.document_id = node.document_id
                AND near.ordinal BETWEEN node.ordinal - %(n_context)s AND node.ordinal + %(n_context)s
        )
