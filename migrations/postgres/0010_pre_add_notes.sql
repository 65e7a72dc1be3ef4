-- Why:  what was noted while a document was read is kept with it; a file that was restored with its old size and time is
--       found by the time of its last change of any kind.
-- Lock: the tables of documents and of the quarantine, exclusively, for a moment; nothing is rewritten.
-- Safe: programs of before write neither column, and an unknown time is compared with nothing.
-- Undo: ALTER TABLE ragstore.document DROP COLUMN notes, DROP COLUMN ctime_ns; ALTER TABLE ragstore.quarantine DROP
--       COLUMN ctime_ns.

ALTER TABLE ragstore.document
    ADD COLUMN notes jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN ctime_ns bigint;

ALTER TABLE ragstore.quarantine ADD COLUMN ctime_ns bigint;
