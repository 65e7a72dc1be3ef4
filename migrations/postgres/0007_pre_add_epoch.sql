-- Why:  a store that was restored to another moment than the other one is recognised, instead of being taken for whole.
-- Lock: the outbox, exclusively, while its rows, which are few, get a token each.
-- Safe: programs of before empty the outbox without leaving marks: stop them first.
-- Undo: DROP FUNCTION ragstore.begin_epoch; DROP TABLE ragstore.mark, ragstore.epoch; ALTER TABLE ragstore.outbox
--       DROP COLUMN token.

-- One row. MongoDB has the same number; a reconciliation begins the next one. Writers hold the row, so that none of a
-- former epoch commits after its end.
CREATE TABLE ragstore.epoch (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    epoch bigint NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO ragstore.epoch (epoch) VALUES (1);

-- The newest outbox row that was carried out, which MongoDB was given as its mark before: the largest of all slots.
-- Several, so that workers that end at once do not wait for each other.
CREATE TABLE ragstore.mark (
    slot smallint PRIMARY KEY,
    mark bigint NOT NULL DEFAULT 0,
    token uuid
);
INSERT INTO ragstore.mark (slot) SELECT generate_series(0, 15);

-- After a restore the same number is given to another row, never with the same token.
ALTER TABLE ragstore.outbox ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid();

-- Ends the present epoch, once all writers that hold it are done: runs in flight and the outbox belonged to it, and no
-- number above the bound was ever given out. Returns the new epoch.
CREATE FUNCTION ragstore.begin_epoch(mongo_epoch bigint, bound bigint, worker_name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    begun bigint;
BEGIN
    PERFORM FROM ragstore.epoch FOR UPDATE;
    UPDATE ragstore.epoch SET epoch = greatest(epoch, mongo_epoch) + 1, begun_at = now() RETURNING epoch INTO begun;
    INSERT INTO ragstore.event (worker, collection, action, run_id, n_nodes)
        SELECT r.worker, c.name, 'abandoned', r.run_id, cardinality(r.node_ids)
        FROM ragstore.run r JOIN ragstore.collection c USING (collection_id);
    DELETE FROM ragstore.run;
    DELETE FROM ragstore.outbox;
    PERFORM setval('ragstore.stamp', greatest(nextval('ragstore.stamp'), bound));
    PERFORM setval(numbers, greatest(nextval(numbers), bound))
        FROM unnest(ARRAY [pg_get_serial_sequence('ragstore.outbox', 'outbox_id')::regclass]) AS numbers;
    PERFORM setval(numbers, nextval(numbers) + 1000)
        FROM unnest(ARRAY [pg_get_serial_sequence('ragstore.collection', 'collection_id')::regclass]) AS numbers;
    INSERT INTO ragstore.event (worker, collection, action, detail)
        SELECT worker_name, name, 'epoch_begun', jsonb_build_object('epoch', begun) FROM ragstore.collection;
    RETURN begun;
END
$$;
