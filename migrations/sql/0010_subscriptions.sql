-- Who reads the event log, how far each has come, and what it could not take.

CREATE TABLE subscription (
    consumer        text PRIMARY KEY,
    epoch           integer NOT NULL,                -- the last row of the log that is done with
    xid             xid8 NOT NULL,
    position        bigint NOT NULL,
    moved_at        timestamptz,                     -- when it came so far; null: it has not begun
    token           bigint NOT NULL DEFAULT 0,       -- raised by each who takes the lease; fences all before
    holder          text NOT NULL DEFAULT '',        -- who took it last
    leased_until    timestamptz NOT NULL DEFAULT '-infinity',
    attempts        integer NOT NULL DEFAULT 0,      -- failed in a row
    next_attempt_at timestamptz NOT NULL DEFAULT '-infinity',
    last_error      text NOT NULL DEFAULT '',        -- what kind of error, never what it quotes
    last_error_at   timestamptz
) WITH (fillfactor = 50);                            -- changed all the time: keep it on its page

-- An event that a consumer failed with by itself, while its neighbours went on.
CREATE TABLE dead_letter (
    dead_letter_id  uuid PRIMARY KEY,
    consumer        text NOT NULL,
    epoch           integer NOT NULL,
    xid             xid8 NOT NULL,
    position        bigint NOT NULL,
    event_id        uuid NOT NULL,
    event_type      text NOT NULL,
    program_id      uuid NOT NULL,
    member_id       uuid NOT NULL,
    status          text NOT NULL CHECK (status IN ('dead', 'replaying', 'replayed', 'discarded')),
    attempts        integer NOT NULL,
    error           text NOT NULL,                   -- what kind of error, never what it quotes
    died_at         timestamptz NOT NULL DEFAULT now(),
    settled_at      timestamptz,                     -- when it was replayed or discarded
    settled_by      text NOT NULL DEFAULT '',        -- kind and name of the credential that asked for it
    UNIQUE (consumer, epoch, xid, position)
);
CREATE INDEX dead_letter_listed ON dead_letter (program_id, status, dead_letter_id);
CREATE INDEX dead_letter_dead ON dead_letter (consumer) WHERE status = 'dead';
CREATE INDEX dead_letter_replaying ON dead_letter (consumer, epoch, xid, position) WHERE status = 'replaying';

-- A transaction of our role that hangs would hold back every reader of the log, also one of psql. Servers
-- and workers set less for themselves.
DO $$
DECLARE
    bound record;
BEGIN
    FOR bound IN
        SELECT name, value FROM pg_settings
          JOIN (VALUES ('idle_in_transaction_session_timeout', '60s'), ('transaction_timeout', '10min'))
            AS wanted (name, value) USING (name)         -- PostgreSQL has the second from version 17 on
    LOOP
        EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET %I = %L',
                       current_database(), bound.name, bound.value);
    END LOOP;
END $$;
