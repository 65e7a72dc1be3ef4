-- Why:  members of containers are found by the file that they were read from, whenever that file has changed.
-- Lock: writers of documents, while the table is read once: below a second for a million documents.
-- Safe: an index alone; programs of before make no members, so that it is small.
-- Undo: DROP INDEX ragstore.document_source_uri_idx.

CREATE INDEX document_source_uri_idx ON ragstore.document (collection_id, source_uri)
    WHERE source_uri <> document_id AND deleted_at IS NULL AND fingerprint IS NOT NULL;
