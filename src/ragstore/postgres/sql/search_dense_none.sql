-- No vector: nothing to look for on this side.
dense_state AS (SELECT true AS complete)
