-- From how many points at once a member needs a recent, stronger login. 0: always.
ALTER TABLE program
    ADD COLUMN step_up_redeem_points bigint NOT NULL DEFAULT 0 CHECK (step_up_redeem_points >= 0);
