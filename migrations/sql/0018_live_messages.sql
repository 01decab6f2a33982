-- Live streams go on after the last message that they told of. Messages are made under the lease of one consumer,
-- one transaction after the other, so whoever read up to a position has seen all below it.
CREATE SEQUENCE message_position;
ALTER TABLE message ADD COLUMN position bigint NOT NULL DEFAULT nextval('message_position');
CREATE INDEX message_told ON message (program_id, member_id, position);
