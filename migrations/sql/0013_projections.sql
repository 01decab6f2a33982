-- Read models: made of the event log, and made again from it at any time.

-- Each is kept in a generation. Another one is built beside it, and then takes its place.
CREATE TABLE projection (
    name           text PRIMARY KEY,
    generation     uuid NOT NULL,                   -- what is read, and what follows the log
    built_at       timestamptz,                     -- null: never built, it has followed from the beginning
    building       uuid,                            -- what is being built, and by whom
    building_since timestamptz,
    building_seen  timestamptz,                     -- when it last came on
    done           bigint NOT NULL DEFAULT 0,       -- so much of it
    total          bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO projection (name, generation)
SELECT name, gen_random_uuid() FROM unnest(ARRAY['daily_figures', 'member_summary']) AS name;

-- What happened on a business day in a store, one row a figure; rule: what of it that rule brought about, '' for all.
CREATE TABLE daily_figure (
    generation uuid NOT NULL,
    program_id uuid NOT NULL,
    day        date NOT NULL,
    store      text NOT NULL,
    rule       text NOT NULL,
    measure    text NOT NULL,
    unit       text NOT NULL,                       -- a currency or a point type, '' for what is counted
    amount     numeric NOT NULL,
    PRIMARY KEY (generation, program_id, day, store, rule, measure, unit)
) WITH (fillfactor = 70);
