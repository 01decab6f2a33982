-- What members are told: templates, and messages without their text.

-- {"language": ..., "quiet_hours": ["21:00", "08:00"], ...}; what isn't there has its default.
ALTER TABLE program ADD COLUMN notification_terms jsonb NOT NULL DEFAULT '{}';

-- A version never changes; the last one is in force.
CREATE TABLE template (
    program_id uuid NOT NULL,
    occasion   text NOT NULL,
    channel    text NOT NULL,
    language   text NOT NULL,                       -- BCP 47
    version    integer NOT NULL CHECK (version > 0),
    withdrawn  boolean NOT NULL,                    -- from this version on Laurel's own is in force
    subject    text NOT NULL,
    text       text NOT NULL,
    html       text NOT NULL,
    created_at timestamptz NOT NULL,
    actor      text NOT NULL,
    PRIMARY KEY (program_id, occasion, channel, language, version)
);
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON template EXECUTE FUNCTION refuse_change();

-- A message is kept as facts of the event it comes from, and becomes text when it is sent or looked at: so
-- it holds nothing personal, and the name of an erased member isn't in it.
CREATE TABLE message (
    program_id uuid NOT NULL,
    member_id  uuid NOT NULL,
    message_id uuid NOT NULL,                       -- UUIDv7: in order of making
    occasion   text NOT NULL,
    once       text NOT NULL,                       -- of two with the same one the second isn't made
    facts      jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    send_at    timestamptz NOT NULL,                -- when it leaves by mail, SMS and push
    useless_at timestamptz,                         -- nobody wants it from then on
    is_open    boolean NOT NULL,                    -- takes in more of the same, until send_at or until it is sent
    in_inbox   boolean NOT NULL,
    language   text NOT NULL,                       -- the template by which the inbox shows it:
    version    integer NOT NULL,                    -- of the program, 0 for Laurel's own
    read_at    timestamptz,
    PRIMARY KEY (program_id, member_id, message_id)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX message_once ON message (program_id, member_id, once);
CREATE UNIQUE INDEX message_open ON message (program_id, member_id, occasion) WHERE is_open;
CREATE INDEX message_unread ON message (program_id, member_id) WHERE in_inbox AND read_at IS NULL;
