-- What is done by the clock, once each period however many workers look: this row is the guard.
CREATE TABLE schedule (
    name         text NOT NULL,
    program_id   uuid NOT NULL,                     -- nil: of the whole installation
    every        interval NOT NULL,                 -- a day: from midnight on by the program's clock
    switched_off boolean NOT NULL DEFAULT false,
    next_at      timestamptz NOT NULL,              -- when it is to be done next, or tried again
    period       timestamptz,                       -- the start of the one last begun; null: never
    done_period  timestamptz,                       -- of the last one that was done whole
    outcome      text NOT NULL DEFAULT 'waiting' CHECK (outcome IN ('waiting', 'running', 'done', 'failed')),
    attempts     integer NOT NULL DEFAULT 0,        -- begun so often in that period
    started_at   timestamptz,
    ended_at     timestamptz,
    did          text NOT NULL DEFAULT '',          -- what came of the last one that was done
    error        text NOT NULL DEFAULT '',          -- why it failed: the kind of fault, nothing that it quotes
    token        bigint NOT NULL DEFAULT 0,         -- raised by each who begins; fences all before
    holder       text NOT NULL DEFAULT '',          -- who began it last
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (name, program_id)
) WITH (fillfactor = 50);                           -- changed all the time: keep it on its page

-- The last calendar year in which the member's birthday came; beside the birth date, and gone with it.
ALTER TABLE member_profile ADD COLUMN birthday_year smallint;
