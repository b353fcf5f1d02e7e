-- As they were before.
CREATE OR REPLACE FUNCTION check_payout_lines() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added
        JOIN payout ON payout.id = added.payout_id
        JOIN ledger_entry AS entry ON entry.id = added.ledger_entry_id
        JOIN account ON account.id = entry.account_id
        JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
        LEFT JOIN pay_decision AS decision
            ON decision.ledger_transaction_id = earning.id AND earning.kind = 'claim_paid'
        LEFT JOIN audition
            ON audition.ledger_transaction_id = earning.id AND earning.kind = 'audition_paid'
        WHERE payout.state <> 'draft'
           OR entry.amount_minor <> -added.amount_minor
           OR account.kind <> 'performer_payable'
           OR account.owner_id <> payout.performer_id
           OR account.currency <> payout.currency
           OR coalesce(decision.performer_id, audition.performer_id)
               IS DISTINCT FROM payout.performer_id
           OR coalesce(decision.pay_minor, audition.pay_minor) IS DISTINCT FROM added.amount_minor
    ) THEN
        RAISE EXCEPTION 'a payout line stands for one whole earning of its performer, in a draft'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'payout_line_earning';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION guard_payout() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    run_is text := (SELECT state FROM payout_run WHERE id = NEW.run_id);
    in_flight boolean := EXISTS (
        SELECT FROM payout_attempt WHERE payout_id = NEW.id AND outcome IS NULL);
BEGIN
    IF (CASE NEW.state
        WHEN 'draft' THEN run_is = 'draft'
        WHEN 'approved' THEN run_is = 'approved' AND NOT in_flight
        WHEN 'sending' THEN in_flight
        WHEN 'refused' THEN NOT in_flight
        WHEN 'paid' THEN EXISTS (
            SELECT FROM payout_attempt
            WHERE payout_id = NEW.id AND outcome = 'succeeded' AND transfer_id = NEW.transfer_id)
        ELSE true
    END) IS NOT TRUE THEN
        RAISE EXCEPTION 'payout % may not be %: its run is %, an attempt in flight: %',
            NEW.id, NEW.state, run_is, in_flight
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_state_proven';
    END IF;
    RETURN NEW;
END
$$;
