-- What a wallet holds changes with time: points activate and expire, holds end. And what was
-- earned or spent may come back.

-- How a program's points live: {"lots": {point type: {...}}, "clawback": ..., ...}; what isn't there has its default.
ALTER TABLE program ADD COLUMN ledger_terms jsonb NOT NULL DEFAULT '{}';

-- next_due: no lot or hold of the wallet changes by the clock before it; null if none ever will.
-- active_at: the last earning or spending, from which rolling expiry counts.
ALTER TABLE wallet ADD COLUMN next_due timestamptz, ADD COLUMN active_at timestamptz;
CREATE INDEX wallet_due ON wallet (next_due) WHERE next_due IS NOT NULL;

-- remaining includes what is held.
ALTER TABLE lot
    ADD COLUMN held bigint NOT NULL DEFAULT 0,
    ADD COLUMN activates_on text NOT NULL DEFAULT '',  -- the type of event that activates it
    ADD COLUMN rolling_days integer,                   -- it expires so many days after the wallet's active_at
    ADD CHECK (held BETWEEN 0 AND remaining);
CREATE INDEX lot_pending ON lot (program_id, member_id) WHERE NOT active AND remaining > 0;

CREATE TABLE hold (
    program_id  uuid NOT NULL,
    member_id   uuid NOT NULL,
    hold_id     uuid NOT NULL,
    point_type  text NOT NULL,
    points      bigint NOT NULL CHECK (points > 0),
    open_points bigint NOT NULL CHECK (open_points >= 0),
    captured    bigint NOT NULL CHECK (captured >= 0),
    status      text NOT NULL CHECK (status IN ('open', 'captured', 'voided', 'expired')),
    expires_at  timestamptz NOT NULL,
    shares      jsonb NOT NULL,                        -- [[lot, points], ...] of what is still reserved
    PRIMARY KEY (program_id, member_id, hold_id),
    CHECK (open_points + captured <= points AND (open_points > 0) = (status = 'open'))
) WITH (fillfactor = 70);
CREATE INDEX hold_id ON hold (hold_id);
CREATE INDEX hold_open ON hold (program_id, member_id) WHERE open_points > 0;

-- Units of a purchase's line that are back.
CREATE TABLE returned_line (
    program_id uuid NOT NULL,
    member_id  uuid NOT NULL,
    event_id   uuid NOT NULL,
    line_id    text NOT NULL,
    quantity   bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (program_id, member_id, event_id, line_id)
);

-- Points of a redemption that were given back.
CREATE TABLE refund (
    program_id     uuid NOT NULL,
    member_id      uuid NOT NULL,
    transaction_id uuid NOT NULL,
    points         bigint NOT NULL CHECK (points > 0),
    PRIMARY KEY (program_id, member_id, transaction_id)
);

-- The lifetime of members that were merged into this one.
ALTER TABLE member ADD COLUMN inherited bigint NOT NULL DEFAULT 0, ADD COLUMN merged_into uuid;
