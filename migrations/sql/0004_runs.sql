-- Runs find what the clock changes program by program, in the order of the moments. With the member
-- in the index a run goes on where its last batch ended, also where a million wallets fall due at once.
DROP INDEX wallet_due;
CREATE INDEX wallet_due ON wallet (program_id, next_due, member_id) WHERE next_due IS NOT NULL;

-- What members were told of points that will expire: so many days ahead, of all that expire that day.
CREATE TABLE expiry_warning (
    program_id uuid NOT NULL,
    member_id  uuid NOT NULL,
    point_type text NOT NULL,
    expires_on date NOT NULL,                       -- on the program's calendar
    days_ahead integer NOT NULL CHECK (days_ahead > 0),
    PRIMARY KEY (program_id, member_id, point_type, expires_on, days_ahead)
);

-- The last day, on the program's calendar, whose warnings are all out; null before the first.
ALTER TABLE program ADD COLUMN warned_on date;
