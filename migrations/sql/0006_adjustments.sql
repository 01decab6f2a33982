-- Adjustments too large for one person: asked for by one, decided by another.
CREATE TABLE adjustment (
    program_id           uuid NOT NULL,
    adjustment_id        uuid NOT NULL,               -- UUIDv7: in order of asking
    member_id            uuid NOT NULL,
    point_type           text NOT NULL,
    points               bigint NOT NULL CHECK (points <> 0),
    expires_at           timestamptz,
    reason               text NOT NULL,
    status               text NOT NULL CHECK (status IN ('pending', 'approved', 'rejected')),
    requested_by         text NOT NULL,
    requested_credential uuid NOT NULL,
    requested_at         timestamptz NOT NULL,
    decided_by           text NOT NULL,
    decided_at           timestamptz,
    decision_reason      text NOT NULL,
    transaction_id       uuid,
    PRIMARY KEY (program_id, adjustment_id),
    CHECK ((status = 'pending') = (decided_at IS NULL)),
    CHECK ((status = 'approved') = (transaction_id IS NOT NULL))
);
CREATE INDEX adjustment_member ON adjustment (program_id, member_id, adjustment_id);
CREATE INDEX adjustment_pending ON adjustment (program_id, adjustment_id) WHERE status = 'pending';
