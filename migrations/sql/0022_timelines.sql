-- What happened to each member, in one list: which event, and where it stands in the log. What it says is read there.
-- A worker that is new enough builds it from the beginning of the log.
INSERT INTO projection (name, generation) VALUES ('history', gen_random_uuid());

CREATE TABLE timeline_entry (
    generation  uuid NOT NULL,
    program_id  uuid NOT NULL,
    member_id   uuid NOT NULL,                      -- in whose timeline; the event may be their household's
    occurred_at timestamptz NOT NULL,
    epoch       integer NOT NULL,
    xid         xid8 NOT NULL,
    position    bigint NOT NULL,
    kind        text NOT NULL,                      -- how it concerns that member
    PRIMARY KEY (generation, program_id, member_id, occurred_at, epoch, xid, position) INCLUDE (kind)
);

-- Who sat in a pool when something happened to it, and where a member sat. There are few of these in the log, so the
-- index stays small. Meant for a log as it is before a first release: until it is built nobody writes events.
CREATE INDEX event_log_seats ON event_log (program_id, member_id, epoch, xid, position)
 WHERE event_type IN ('household.joined', 'household.left');
