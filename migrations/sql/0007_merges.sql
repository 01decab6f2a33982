-- Members of one person become one: merged_into says which, in one step.
ALTER TABLE member DROP CONSTRAINT member_status_check;
ALTER TABLE member
    ADD CHECK (status IN ('active', 'suspended', 'closed', 'merged')),
    ADD CHECK ((status = 'merged') = (merged_into IS NOT NULL));
CREATE INDEX member_merged ON member (program_id, merged_into) WHERE merged_into IS NOT NULL;
