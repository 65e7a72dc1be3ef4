-- Why:  which parts of a collection are indexed stands in its segments; a state of the whole means nothing any more.
-- Lock: the table of collections, exclusively, for a moment; nothing is rewritten.
-- Safe: runs after the last program of before has stopped; this one does not know the column.
-- Undo: ALTER TABLE ragstore.collection ADD COLUMN index_state text NOT NULL DEFAULT 'none'.

ALTER TABLE ragstore.collection DROP COLUMN index_state;
