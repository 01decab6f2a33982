-- Through which channels deliveries can leave: each worker says every hour which it has open. What is made
-- of an event doesn't depend on the settings of the worker that happens to read it.
CREATE TABLE open_channel (
    channel text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);
