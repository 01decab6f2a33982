-- The last line of each file of checkpoints that was ever written from here: a file whose end
-- was cut off is told by it.
CREATE TABLE checkpoint (
    chain    uuid PRIMARY KEY,                      -- of the file
    number   bigint NOT NULL,
    digest   bytea NOT NULL,                        -- SHA-256 of the line
    taken_at timestamptz NOT NULL
) WITH (fillfactor = 50);
