-- Why:  most statements ask for live documents alone; what that means is said in one place.
-- Lock: none that anybody waits for.
-- Safe: programs of before do not know the view. A migration that adds a column to ragstore.document makes the view anew.
-- Undo: DROP VIEW ragstore.live_document.

CREATE VIEW ragstore.live_document AS SELECT * FROM ragstore.document WHERE deleted_at IS NULL AND revision > 0;
