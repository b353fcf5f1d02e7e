-- As they were before.
DROP TRIGGER kept ON payout_run;
CREATE TRIGGER kept BEFORE UPDATE ON payout_run FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('approved_by', 'approved_at');

CREATE OR REPLACE FUNCTION guard_payout() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    run_is text := (SELECT state FROM payout_run WHERE id = NEW.run_id);
    in_flight boolean := EXISTS (
        SELECT FROM payout_attempt WHERE payout_id = NEW.id AND outcome IS NULL);
    returned bigint := (
        SELECT coalesce(sum(amount_minor), 0) FROM transfer_reversal
        WHERE payout_id = NEW.id AND state = 'reversed');
BEGIN
    IF (CASE NEW.state
        WHEN 'draft' THEN run_is = 'draft'
        WHEN 'approved' THEN run_is = 'approved' AND NOT in_flight
        WHEN 'sending' THEN in_flight
        WHEN 'refused' THEN NOT in_flight
        WHEN 'paid' THEN EXISTS (
            SELECT FROM payout_attempt
            WHERE payout_id = NEW.id AND outcome = 'succeeded' AND transfer_id = NEW.transfer_id)
        WHEN 'partly_reversed' THEN returned > 0 AND returned < NEW.amount_minor
        WHEN 'reversed' THEN returned = NEW.amount_minor
        ELSE true
    END) IS NOT TRUE THEN
        RAISE EXCEPTION 'payout % may not be %: its run is %, an attempt in flight: %',
            NEW.id, NEW.state, run_is, in_flight
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_state_proven';
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION guard_payout_attempt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM payout
        WHERE id = NEW.payout_id
          AND NEW.idempotency_key = format('payout-%s-attempt-%s', id, NEW.number)
          AND NEW.request = jsonb_build_object(
              'amount_minor', amount_minor, 'currency', currency, 'destination', destination,
              'transfer_group', format('payout-%s', id),
              'metadata', jsonb_build_object('payout_id', id, 'attempt', NEW.number::text))
    ) THEN
        RAISE EXCEPTION 'attempt % of payout % asks for something else', NEW.number, NEW.payout_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_attempt_request';
    END IF;
    RETURN NEW;
END
$$;
