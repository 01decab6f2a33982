-- What a batch is told of the members it is about, as a row (0021). For some hours 0021 made the type itself, so
-- there may be databases that have it.
DO $$ BEGIN
    IF to_regtype('member_known_row') IS NULL THEN
        CREATE TYPE member_known_row AS (
            program_id uuid, member_id uuid, status text, tier text, tags text[], segments text[],
            attributes jsonb, birth_month smallint, joined_at timestamptz, purchases bigint, version bigint,
            inherited bigint, kind text, point_type text, balance bigint, pending bigint, held bigint,
            debt bigint, lifetime bigint, sequence bigint, head_hash bytea, next_due timestamptz,
            active_at timestamptz
        );
    END IF;
END $$;
