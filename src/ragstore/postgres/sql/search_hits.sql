-- What a hit carries, fetched for the winners alone. One row says at least whether the search was complete.
SELECT
    (SELECT complete FROM dense_state), hit.*
FROM (SELECT) AS one_row
LEFT JOIN (
    SELECT
        node.node_id, node.document_id, document.source_uri, node.text, node.user_metadata,
        node.start_char, node.end_char, winner.score, {embedding} AS embedding
    FROM winner
    JOIN {table} AS node ON node.ctid = winner.tid
    LEFT JOIN ragstore.document
        ON document.collection_id = %(collection_id)s AND document.document_id = node.document_id
) AS hit ON true
ORDER BY hit.score DESC, hit.node_id COLLATE "C"
