-- Journals hold captures, reservations that were given up and returns too, and these may come too late as well.
ALTER TABLE review_entry DROP CONSTRAINT review_entry_kind_check;
ALTER TABLE review_entry ADD CONSTRAINT review_entry_kind_check
    CHECK (kind IN ('accrue', 'event', 'redeem', 'capture_hold', 'void_hold', 'return_purchase')) NOT VALID;
ALTER TABLE review_entry VALIDATE CONSTRAINT review_entry_kind_check;
