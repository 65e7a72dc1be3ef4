-- What a hit carries, fetched for the winners alone. One row says at least whether the search was complete, and what
-- the collection has now that can change, where it still is.
SELECT (SELECT complete FROM dense_state), now.segments::text, now.filter_keys, now.effort::text, hit.*
FROM (SELECT) AS one_row
LEFT JOIN ragstore.collection AS now ON now.collection_id = %(collection_id)s
LEFT JOIN (
    SELECT
        node.node_id, node.document_id, document.source_uri, node.text, {user_metadata} AS user_metadata,
        node.start_char, node.end_char, winner.score, {embedding} AS embedding, {class_name} AS class_name,
        {content} AS content, {context} AS context
    FROM winner
    JOIN {table} AS node ON node.ctid = winner.tid
    LEFT JOIN ragstore.document
        ON document.collection_id = %(collection_id)s AND document.document_id = node.document_id
) AS hit ON true
ORDER BY hit.score DESC, hit.node_id COLLATE "C"
