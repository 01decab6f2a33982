-- What decisions rest on beside the ledger's rows changes with them, and is never taken away.
CREATE TRIGGER permanent BEFORE DELETE OR TRUNCATE ON wallet EXECUTE FUNCTION refuse_change();
CREATE TRIGGER permanent BEFORE DELETE OR TRUNCATE ON lot EXECUTE FUNCTION refuse_change();
CREATE TRIGGER permanent BEFORE DELETE OR TRUNCATE ON hold EXECUTE FUNCTION refuse_change();
CREATE TRIGGER permanent BEFORE DELETE OR TRUNCATE ON refund EXECUTE FUNCTION refuse_change();
CREATE TRIGGER permanent BEFORE DELETE OR TRUNCATE ON returned_line EXECUTE FUNCTION refuse_change();
CREATE TRIGGER permanent BEFORE DELETE OR TRUNCATE ON cap_usage EXECUTE FUNCTION refuse_change();
CREATE TRIGGER permanent BEFORE DELETE OR TRUNCATE ON adjustment EXECUTE FUNCTION refuse_change();
-- What was answered is answered again, word for word.
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON request_key EXECUTE FUNCTION refuse_change();
