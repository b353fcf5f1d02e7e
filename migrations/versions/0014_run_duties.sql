-- Runs that are paused, approvals that an edit voids, destinations that cool.

ALTER TABLE payout_run ADD COLUMN edited_by uuid[] NOT NULL DEFAULT '{}';
ALTER TABLE payout_run DROP CONSTRAINT ck_payout_run_approved_by_somebody;
ALTER TABLE payout_run ADD CONSTRAINT ck_payout_run_approved_by_somebody CHECK ((state IN ('approved', 'paused')) = (approved_by IS NOT NULL)) NOT VALID;

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('payout_run', 'approved', 'paused'),
    ('payout_run', 'approved', 'draft'),
    ('payout_run', 'paused', 'approved'),
    ('payout_run', 'paused', 'draft'),
    ('payout', 'approved', 'draft');

-- An approval stays as it was given, until an edit voids it as a whole.
DROP TRIGGER kept ON payout_run;
CREATE TRIGGER kept BEFORE UPDATE ON payout_run FOR EACH ROW
    WHEN (NEW.state <> 'draft')
    EXECUTE FUNCTION keep_what_is_set('approved_by', 'approved_at');

-- Who edited a run stays named until somebody else approves it; no approval is an editor's.
CREATE FUNCTION guard_run_editors() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'draft' AND NEW.state = 'approved' THEN
        IF NEW.approved_by = ANY (OLD.edited_by) OR cardinality(NEW.edited_by) > 0 THEN
            RAISE EXCEPTION 'run % is approved by somebody who has not edited it', NEW.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_run_not_its_editor';
        END IF;
    ELSIF NOT NEW.edited_by @> OLD.edited_by THEN
        RAISE EXCEPTION 'who edited run % stays named until it is approved', NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_run_editors_kept';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER editors BEFORE UPDATE ON payout_run FOR EACH ROW EXECUTE FUNCTION guard_run_editors();

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
        WHEN 'approved' THEN run_is IN ('approved', 'paused') AND NOT in_flight
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
    -- Nothing is begun of a run that is paused or waits for its approval; nobody pauses it meanwhile.
    PERFORM FROM payout_run
    WHERE id = (SELECT run_id FROM payout WHERE id = NEW.payout_id) AND state = 'approved'
    FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the run of payout % is not approved', NEW.payout_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_run_approved';
    END IF;
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

-- Which payouts of an earning were given up: nobody pays it again without a look at them.
CREATE INDEX ix_payout_line_given_up ON payout_line (ledger_entry_id) WHERE released_at IS NOT NULL;

-- When another account takes the place of an earlier one, that is told by the database alone.
ALTER TABLE payout_account ADD COLUMN destination_changed_at timestamptz;
CREATE FUNCTION stamp_destination() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.destination_changed_at := CASE
        WHEN TG_OP = 'UPDATE' AND OLD.stripe_account_id <> NEW.stripe_account_id
            THEN marketplace_now()
        WHEN TG_OP = 'UPDATE' THEN OLD.destination_changed_at
    END;
    RETURN NEW;
END
$$;
CREATE TRIGGER destination BEFORE INSERT OR UPDATE ON payout_account
    FOR EACH ROW EXECUTE FUNCTION stamp_destination();
