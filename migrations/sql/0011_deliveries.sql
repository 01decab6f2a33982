-- What must happen outside the database: a row is written in the transaction of whoever wants
-- it, and sent afterwards. References only, no personal data: that is read when it is sent.
-- The delivery's id is the message id by which a receiver tells a repetition.
CREATE TABLE delivery (
    program_id      uuid NOT NULL,
    delivery_id     uuid NOT NULL,                  -- UUIDv7: in order of making
    member_id       uuid NOT NULL,                  -- the nil UUID if it is about nobody
    channel         text NOT NULL,
    target          text NOT NULL,                  -- whose slowness holds up nobody else
    dedup_key       text NOT NULL,                  -- what is wanted twice is made once
    content         jsonb NOT NULL,
    status          text NOT NULL CHECK (status IN ('pending', 'sent', 'dead', 'discarded')),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,           -- while somebody is at it: until when they hold it
    token           bigint NOT NULL DEFAULT 0,      -- raised by whoever takes it: the fence
    last_error      text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    PRIMARY KEY (program_id, delivery_id),
    CHECK ((status = 'pending') = (finished_at IS NULL))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX delivery_wanted ON delivery (program_id, dedup_key);
CREATE INDEX delivery_due ON delivery (target, next_attempt_at) WHERE status = 'pending';
CREATE INDEX delivery_target ON delivery (program_id, target, delivery_id);
CREATE INDEX delivery_dead ON delivery (program_id, delivery_id) WHERE status = 'dead';

-- How each attempt went. One that its worker died over leaves no row.
CREATE TABLE delivery_attempt (
    program_id   uuid NOT NULL,
    delivery_id  uuid NOT NULL,
    token        bigint NOT NULL,
    attempted_at timestamptz NOT NULL,
    milliseconds integer NOT NULL,
    outcome      text NOT NULL CHECK (outcome IN ('sent', 'temporary', 'permanent', 'unwanted', 'postponed')),
    response     text NOT NULL,                     -- what the receiver answered, in a word: 503
    error        text NOT NULL,
    PRIMARY KEY (program_id, delivery_id, token)
);

-- Where partners hear of what happened.
CREATE TABLE webhook_endpoint (
    program_id      uuid NOT NULL,
    endpoint_id     uuid NOT NULL,                  -- UUIDv7: in order of registration
    url             text NOT NULL,
    description     text NOT NULL,
    event_types     text[] NOT NULL,                -- names, or patterns such as points.*
    status          text NOT NULL CHECK (status IN ('enabled', 'disabled', 'removed')),
    disabled_reason text NOT NULL DEFAULT '',
    failing_since   timestamptz,                    -- the first failure since the last success
    created_at      timestamptz NOT NULL,
    created_by      text NOT NULL,
    PRIMARY KEY (program_id, endpoint_id)
);

-- At most two of an endpoint sign: the one in use, and until it expires the one before.
CREATE TABLE webhook_secret (
    program_id    uuid NOT NULL,
    endpoint_id   uuid NOT NULL,
    secret_id     uuid NOT NULL,                    -- UUIDv7: the newest is in use
    master_key_id text NOT NULL,
    sealed        bytea NOT NULL,                   -- AES-256-GCM under the master key
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz,
    PRIMARY KEY (program_id, endpoint_id, secret_id)
);
