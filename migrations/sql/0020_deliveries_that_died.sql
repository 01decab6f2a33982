-- Of a delivery that is dead no more: when it died. Whoever was never dead is no dead letter.
ALTER TABLE delivery ADD COLUMN died_at timestamptz;
UPDATE delivery SET died_at = finished_at WHERE status = 'discarded';
CREATE INDEX delivery_undead ON delivery (program_id, delivery_id) WHERE died_at IS NOT NULL;
