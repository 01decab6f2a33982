-- The tables everything stands on. Conventions:
--   * program_id first: every row belongs to one program;
--   * member_id in every key of a member's tables, so that the ledger can be spread by it
--     one day; what must be unique across members stands in tables of its own;
--   * no foreign keys out of the hot tables: the committer holds the locks that make
--     them true, and a key check per row would be paid on every purchase.

CREATE TABLE program (
    program_id        uuid PRIMARY KEY,
    name              text NOT NULL UNIQUE,
    currency          text NOT NULL,
    time_zone         text NOT NULL,
    point_types       text[] NOT NULL,
    tiers             jsonb NOT NULL,               -- [{"name": ..., "from_points": ...}, ...]
    rates             jsonb NOT NULL DEFAULT '{}',  -- currency -> decimal as text
    past_limit_days   integer NOT NULL DEFAULT 30,
    clock_skew_seconds integer NOT NULL DEFAULT 300,
    rules_revision    bigint NOT NULL DEFAULT 0,    -- raised by every publication and event type
    created_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE event_type (
    program_id  uuid NOT NULL,
    name        text NOT NULL,
    attributes  jsonb NOT NULL,
    description text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (program_id, name)
);

-- A rule version never changes. Which versions are in force is said by rule_set alone.
CREATE TABLE rule (
    program_id uuid NOT NULL,
    name       text NOT NULL,
    version    bigint NOT NULL,
    definition jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    PRIMARY KEY (program_id, name, version)
);

CREATE TABLE rule_set (
    program_id   uuid NOT NULL,
    revision     bigint NOT NULL,
    rules        jsonb NOT NULL,                    -- name -> version
    published_at timestamptz NOT NULL DEFAULT now(),
    actor        text NOT NULL,
    PRIMARY KEY (program_id, revision)
);

CREATE TABLE credential (
    credential_id uuid PRIMARY KEY,
    program_id    uuid NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('terminal', 'service', 'staff')),
    name          text NOT NULL,
    source_system text NOT NULL,
    store         text NOT NULL DEFAULT '',
    scopes        text[] NOT NULL,
    secret_hash   bytea NOT NULL,                   -- SHA-256 of 256 random bits: nothing to guess, so nothing to slow down
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz
);
CREATE UNIQUE INDEX credential_name ON credential (program_id, name) WHERE revoked_at IS NULL;

-- What rules and the hot path need of a member: nothing personal. No index covers what
-- a purchase changes (version, tier, purchases), so updates stay HOT.
CREATE TABLE member (
    program_id  uuid NOT NULL,
    member_id   uuid NOT NULL,
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'closed')),
    tier        text NOT NULL,
    tags        text[] NOT NULL DEFAULT '{}',
    segments    text[] NOT NULL DEFAULT '{}',
    attributes  jsonb NOT NULL DEFAULT '{}',
    birth_month smallint NOT NULL DEFAULT 0 CHECK (birth_month BETWEEN 0 AND 12),
    joined_at   timestamptz NOT NULL,
    purchases   bigint NOT NULL DEFAULT 0,
    version     bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (program_id, member_id)
) WITH (fillfactor = 70);

-- Personal data, sealed with the member's own key (AES-256-GCM).
CREATE TABLE member_profile (
    program_id  uuid NOT NULL,
    member_id   uuid NOT NULL,
    sealed      bytea NOT NULL,
    preferences jsonb NOT NULL DEFAULT '{}',
    updated_at  timestamptz NOT NULL,
    etag        bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (program_id, member_id)
);

-- Apart from the profiles, so that backups can treat the keys apart and an erased
-- member stays erased.
CREATE TABLE member_key (
    program_id    uuid NOT NULL,
    member_id     uuid NOT NULL,
    master_key_id text NOT NULL,
    wrapped       bytea NOT NULL,
    PRIMARY KEY (program_id, member_id)
);

-- blind: HMAC-SHA-256 of the normalised value under a key that isn't in the database.
CREATE TABLE member_identifier (
    program_id uuid NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('email', 'phone', 'external_id', 'card_number')),
    blind      bytea NOT NULL,
    member_id  uuid NOT NULL,
    PRIMARY KEY (program_id, kind, blind)
);
CREATE INDEX member_identifier_member ON member_identifier (program_id, member_id);

CREATE TABLE consent (
    program_id     uuid NOT NULL,
    member_id      uuid NOT NULL,
    consent_id     uuid NOT NULL,                   -- UUIDv7: in order of recording
    purpose        text NOT NULL,
    granted        boolean NOT NULL,
    policy_version text NOT NULL,
    channel        text NOT NULL,
    recorded_at    timestamptz NOT NULL,
    actor          text NOT NULL,
    PRIMARY KEY (program_id, member_id, consent_id)
);

CREATE TABLE access_audit (
    audit_id      uuid PRIMARY KEY,
    program_id    uuid NOT NULL,
    credential_id uuid NOT NULL,
    actor         text NOT NULL,
    method        text NOT NULL,
    member_ids    uuid[] NOT NULL,
    recorded_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX access_audit_members ON access_audit USING gin (member_ids);

-- The ledger.

CREATE TABLE wallet (
    program_id uuid NOT NULL,
    member_id  uuid NOT NULL,
    point_type text NOT NULL,
    balance    bigint NOT NULL,
    pending    bigint NOT NULL,
    held       bigint NOT NULL,
    debt       bigint NOT NULL,
    lifetime   bigint NOT NULL,
    sequence   bigint NOT NULL,
    head_hash  bytea NOT NULL,
    PRIMARY KEY (program_id, member_id, point_type),
    CHECK (balance >= 0 AND pending >= 0 AND held >= 0 AND debt >= 0)
) WITH (fillfactor = 70);

-- "transaction" is a word of SQL's own, hence the longer name.
CREATE TABLE ledger_transaction (
    program_id      uuid NOT NULL,
    member_id       uuid NOT NULL,
    transaction_id  uuid NOT NULL,                  -- UUIDv7: in order of recording
    point_type      text NOT NULL,
    sequence        bigint NOT NULL,
    kind            text NOT NULL,
    points          bigint NOT NULL CHECK (points > 0),
    debit_account   text NOT NULL,
    credit_account  text NOT NULL,
    balance_after   bigint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    recorded_at     timestamptz NOT NULL,
    event_id        uuid NOT NULL,
    event_type      text NOT NULL,
    order_reference text NOT NULL,
    store           text NOT NULL,
    channel         text NOT NULL,
    source_system   text NOT NULL,
    actor           text NOT NULL,
    credential_id   uuid NOT NULL,
    reason          text NOT NULL,
    trace           jsonb NOT NULL,
    key_id          text NOT NULL,
    previous_hash   bytea NOT NULL,
    hash            bytea NOT NULL,
    PRIMARY KEY (program_id, member_id, transaction_id)
);
CREATE UNIQUE INDEX ledger_transaction_chain ON ledger_transaction (program_id, member_id, point_type, sequence);
CREATE INDEX ledger_transaction_id ON ledger_transaction (transaction_id);

CREATE TABLE lot (
    program_id     uuid NOT NULL,
    member_id      uuid NOT NULL,
    lot_id         uuid NOT NULL,                   -- UUIDv7: ties go to the older
    point_type     text NOT NULL,
    transaction_id uuid NOT NULL,
    points         bigint NOT NULL CHECK (points > 0),
    remaining      bigint NOT NULL CHECK (remaining BETWEEN 0 AND points),
    active         boolean NOT NULL,                -- false while its points are pending
    activates_at   timestamptz,
    expires_at     timestamptz,
    PRIMARY KEY (program_id, member_id, lot_id)
);
CREATE INDEX lot_open ON lot (program_id, member_id, point_type, expires_at, lot_id) WHERE remaining > 0;

CREATE TABLE allocation (
    program_id     uuid NOT NULL,
    member_id      uuid NOT NULL,
    transaction_id uuid NOT NULL,
    lot_id         uuid NOT NULL,
    points         bigint NOT NULL CHECK (points > 0),
    PRIMARY KEY (program_id, member_id, transaction_id, lot_id)
);

-- What a rule has given a member in a period, so that caps hold under any concurrency.
CREATE TABLE cap_usage (
    program_id uuid NOT NULL,
    member_id  uuid NOT NULL,
    rule       text NOT NULL,
    period     text NOT NULL,                       -- such as day:2026-11-23
    points     bigint NOT NULL CHECK (points >= 0),
    PRIMARY KEY (program_id, member_id, rule, period)
) WITH (fillfactor = 70);

-- Exactly once, by two keys.

CREATE TABLE request_key (
    program_id    uuid NOT NULL,
    source_system text NOT NULL,
    request_id    text NOT NULL,
    request_hash  bytea NOT NULL,
    reply         jsonb NOT NULL,                   -- no personal data, ever
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (program_id, source_system, request_id)
);

-- order_reference stands second so that a receipt number alone finds its rows.
CREATE TABLE business_key (
    program_id      uuid NOT NULL,
    order_reference text NOT NULL,
    source_system   text NOT NULL,
    store           text NOT NULL,
    business_date   date NOT NULL,
    action          text NOT NULL,
    part            text NOT NULL,
    member_id       uuid NOT NULL,
    event_id        uuid NOT NULL,
    transaction_ids uuid[] NOT NULL,
    PRIMARY KEY (program_id, order_reference, source_system, store, business_date, action, part)
);

-- The outbox. Readers resume on (epoch, xid, position) below the snapshot's xmin: a
-- position alone would skip rows whose transaction commits late.
CREATE TABLE log_epoch (
    epoch             integer PRIMARY KEY,
    system_identifier bigint NOT NULL,              -- of the cluster; another one means a restore, hence a new epoch
    started_at        timestamptz NOT NULL DEFAULT now()
);
INSERT INTO log_epoch (epoch, system_identifier)
SELECT 1, system_identifier FROM pg_control_system();

CREATE TABLE event_log (
    epoch       integer NOT NULL,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    position    bigint GENERATED ALWAYS AS IDENTITY,
    event_id    uuid NOT NULL,
    event_type  text NOT NULL,
    program_id  uuid NOT NULL,
    member_id   uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    payload     jsonb NOT NULL,
    PRIMARY KEY (epoch, xid, position)
);
CREATE INDEX event_log_member ON event_log (program_id, member_id, event_id);

-- What is written stays written, for the owner too.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: rows of this table are never changed', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transaction EXECUTE FUNCTION refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON allocation EXECUTE FUNCTION refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON event_log EXECUTE FUNCTION refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON business_key EXECUTE FUNCTION refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON rule EXECUTE FUNCTION refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON rule_set EXECUTE FUNCTION refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON consent EXECUTE FUNCTION refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON access_audit EXECUTE FUNCTION refuse_change();
