-- Entries of uploads that came too late to be taken as they come: they wait for a person.
CREATE TABLE review_entry (
    program_id      uuid NOT NULL,
    review_id       uuid NOT NULL,                    -- UUIDv7: in order of arrival
    member_id       uuid NOT NULL,
    source_system   text NOT NULL,
    request_id      text NOT NULL,
    request_hash    bytea NOT NULL,                   -- sent again it gets the same answer
    credential_id   uuid NOT NULL,
    sent_by         text NOT NULL,
    store           text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('accrue', 'event', 'redeem')),
    entry           jsonb NOT NULL,                   -- as it was sent, the member by id: no personal data
    why             text NOT NULL,
    occurred_at     timestamptz NOT NULL,
    received_at     timestamptz NOT NULL,
    status          text NOT NULL CHECK (status IN ('pending', 'approved', 'rejected')),
    decided_by      text NOT NULL,
    decided_at      timestamptz,
    decision_reason text NOT NULL,
    event_id        uuid,                             -- what approving it recorded
    PRIMARY KEY (program_id, review_id),
    CHECK ((status = 'pending') = (decided_at IS NULL)),
    CHECK ((status = 'approved') = (event_id IS NOT NULL))
);
CREATE UNIQUE INDEX review_entry_request ON review_entry (program_id, source_system, request_id);
CREATE INDEX review_entry_member ON review_entry (program_id, member_id, review_id);
CREATE INDEX review_entry_pending ON review_entry (program_id, review_id) WHERE status = 'pending';
CREATE INDEX review_entry_credential ON review_entry (program_id, credential_id) WHERE status = 'pending';
