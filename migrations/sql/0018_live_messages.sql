-- Live streams go on after the last message that they told of. Messages are made under the lease of one consumer,
-- one transaction after the other, so whoever read up to a position has seen all below it. What was there before
-- has none, which is no news, and the table isn't written anew for it. Meant for tables as they are before a first
-- release: until the index is built nobody reads or writes messages.
CREATE SEQUENCE message_position;
ALTER TABLE message ADD COLUMN position bigint;
ALTER TABLE message ALTER COLUMN position SET DEFAULT nextval('message_position');
CREATE INDEX message_told ON message (program_id, member_id, position);
