-- As they were before.
CREATE OR REPLACE FUNCTION is_earning(kind text) RETURNS boolean LANGUAGE sql IMMUTABLE
AS $$ SELECT kind IN ('claim_paid', 'audition_paid', 'transfer_reversed') $$;

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
        LEFT JOIN transfer_reversal AS reversal
            ON reversal.ledger_transaction_id = earning.id AND earning.kind = 'transfer_reversed'
        LEFT JOIN payout AS came_back ON came_back.id = reversal.payout_id
        WHERE payout.state <> 'draft'
           OR entry.amount_minor <> -added.amount_minor
           OR account.kind <> 'performer_payable'
           OR account.owner_id <> payout.performer_id
           OR account.currency <> payout.currency
           OR coalesce(decision.performer_id, audition.performer_id, came_back.performer_id)
               IS DISTINCT FROM payout.performer_id
           OR coalesce(decision.pay_minor, audition.pay_minor, reversal.amount_minor)
               IS DISTINCT FROM added.amount_minor
    ) THEN
        RAISE EXCEPTION 'a payout line stands for one whole earning of its performer, in a draft'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'payout_line_earning';
    END IF;
    RETURN NULL;
END
$$;
