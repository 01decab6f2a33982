-- Members who share a pool. A pool owns wallets as a member does, so it has a row in member: every table of
-- the ledger, every check and every read holds for it too. It is no person: it has no profile, no key and
-- no identifier.
ALTER TABLE member ADD COLUMN kind text NOT NULL DEFAULT 'person' CHECK (kind IN ('person', 'household'));

CREATE TABLE household (
    program_id   uuid NOT NULL,
    household_id uuid NOT NULL,                     -- the pool's member_id
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    dissolved_at timestamptz,
    PRIMARY KEY (program_id, household_id)
);

-- Who sits there, and who did: a seat that ended stays. Nobody has two open ones, and one is the head's.
CREATE TABLE seat (
    program_id   uuid NOT NULL,
    household_id uuid NOT NULL,
    seat_id      uuid NOT NULL,                     -- UUIDv7: in order of joining
    member_id    uuid NOT NULL,
    role         text NOT NULL CHECK (role IN ('head', 'member')),
    may_spend    boolean NOT NULL,
    contributes  boolean NOT NULL,
    joined_at    timestamptz NOT NULL,
    left_at      timestamptz,
    PRIMARY KEY (program_id, household_id, seat_id)
);
CREATE UNIQUE INDEX seat_of_member ON seat (program_id, member_id) WHERE left_at IS NULL;
CREATE UNIQUE INDEX seat_of_head ON seat (program_id, household_id) WHERE left_at IS NULL AND role = 'head';

CREATE TABLE household_invitation (
    program_id    uuid NOT NULL,
    household_id  uuid NOT NULL,
    invitation_id uuid NOT NULL,
    token_hash    bytea NOT NULL,                   -- SHA-256 of 256 bits that nobody can guess
    may_spend     boolean NOT NULL,
    created_at    timestamptz NOT NULL,
    created_by    text NOT NULL,
    expires_at    timestamptz NOT NULL,
    accepted_by   uuid,
    PRIMARY KEY (program_id, household_id, invitation_id)
);
CREATE UNIQUE INDEX household_invitation_token ON household_invitation (program_id, token_hash);

-- For whom a household's pool is to pay; null where members pay for themselves.
ALTER TABLE hold ADD COLUMN spender_id uuid;
