-- Generations of read models that nobody reads any more, and whose rows and keys are still to be removed.
CREATE TABLE dropped_generation (
    name       text NOT NULL,                       -- of the projection
    generation uuid NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, generation)
);

-- What was left lying until now.
INSERT INTO dropped_generation (name, generation)
SELECT DISTINCT 'daily_figures', f.generation FROM daily_figure f
 WHERE NOT EXISTS (SELECT FROM projection p WHERE f.generation IN (p.generation, p.building));

-- Messages are forgotten after a year, by their age. Meant for tables as they are before a first release: until
-- the index is built nobody writes messages.
CREATE INDEX message_age ON message (program_id, message_id);
