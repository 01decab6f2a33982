-- Rows as a batch sends them: one array of rows costs a server half of what an array for each column does.
-- They are apart from the tables' own types, so a table that gets another column still takes what a server
-- of the release before sends. A type is never altered; a later release adds another.
CREATE TYPE ledger_transaction_row AS (
    program_id uuid, member_id uuid, transaction_id uuid, point_type text, sequence bigint, kind text,
    points bigint, debit_account text, credit_account text, balance_after bigint, occurred_at timestamptz,
    recorded_at timestamptz, event_id uuid, event_type text, order_reference text, store text, channel text,
    source_system text, actor text, credential_id uuid, reason text, trace jsonb, key_id text,
    previous_hash bytea, hash bytea
);
CREATE TYPE lot_row AS (
    program_id uuid, member_id uuid, lot_id uuid, point_type text, transaction_id uuid, points bigint,
    remaining bigint, active boolean, activates_at timestamptz, expires_at timestamptz, held bigint,
    activates_on text, rolling_days integer
);
CREATE TYPE wallet_row AS (
    program_id uuid, member_id uuid, point_type text, balance bigint, pending bigint, held bigint, debt bigint,
    lifetime bigint, sequence bigint, head_hash bytea, next_due timestamptz, active_at timestamptz
);
CREATE TYPE member_row AS (
    program_id uuid, member_id uuid, version bigint, status text, tier text, purchases bigint, tags jsonb
);
CREATE TYPE cap_usage_row AS (program_id uuid, member_id uuid, rule text, period text, points bigint);
CREATE TYPE allocation_row AS (
    program_id uuid, member_id uuid, transaction_id uuid, lot_id uuid, points bigint
);
CREATE TYPE lot_left_row AS (
    program_id uuid, member_id uuid, lot_id uuid, remaining bigint, active boolean, held bigint
);
CREATE TYPE business_key_row AS (
    program_id uuid, source_system text, store text, business_date date, order_reference text, action text,
    part text, member_id uuid, event_id uuid, transaction_ids uuid[]
);
CREATE TYPE request_key_row AS (
    program_id uuid, source_system text, request_id text, request_hash bytea, reply jsonb
);
CREATE TYPE event_log_row AS (
    event_id uuid, event_type text, program_id uuid, member_id uuid, occurred_at timestamptz,
    recorded_at timestamptz, payload jsonb
);
-- The same of what a batch asks for: keys.
CREATE TYPE request_key_asked AS (program_id uuid, source_system text, request_id text);
CREATE TYPE business_key_asked AS (
    program_id uuid, source_system text, store text, business_date date, order_reference text, action text,
    part text
);
CREATE TYPE cap_usage_asked AS (program_id uuid, member_id uuid, rule text, period text);
