-- A line is named in the books of a moment as exactly as what it stands for.
CREATE TRIGGER stamp_booking BEFORE INSERT ON booked_balance_transaction
    FOR EACH ROW EXECUTE FUNCTION stamp_booking();

CREATE INDEX ix_audit_event_booked_at ON audit_event USING brin (booked_at) WITH (autosummarize = on);

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
        LEFT JOIN correction
            ON correction.ledger_transaction_id = earning.id
            AND earning.kind IN ('pay_adjusted', 'receivable_netted')
        WHERE payout.state <> 'draft'
           OR entry.amount_minor <> -added.amount_minor
           OR account.kind <> 'performer_payable'
           OR account.owner_id <> payout.performer_id
           OR account.currency <> payout.currency
           OR coalesce(decision.performer_id, audition.performer_id, came_back.performer_id,
                correction.performer_id)
               IS DISTINCT FROM payout.performer_id
           OR coalesce(decision.pay_minor, audition.pay_minor, reversal.amount_minor,
                   CASE correction.kind WHEN 'receivable_netted' THEN -correction.amount_minor
                       ELSE correction.amount_minor END)
               IS DISTINCT FROM added.amount_minor
    ) OR EXISTS (
        -- What was taken off a performer's pay is taken off the next payout, whatever else it pays.
        SELECT FROM payout
        JOIN ledger_entry AS entry
            ON entry.account_id = account_id('performer_payable', payout.performer_id, payout.currency)
        JOIN ledger_transaction AS netted ON netted.id = entry.transaction_id
        WHERE payout.id IN (SELECT payout_id FROM added) AND netted.kind = 'receivable_netted'
          AND NOT EXISTS (SELECT FROM payout_line
              WHERE ledger_entry_id = entry.id AND released_at IS NULL)
          -- One that is issued again is exactly as the one whose outcome was lost.
          AND NOT EXISTS (
              SELECT FROM payout AS lost
              WHERE lost.performer_id = payout.performer_id AND lost.state = 'released'
                AND EXISTS (SELECT FROM payout_attempt
                    WHERE payout_id = lost.id AND error_code = 'not_found')
                AND (SELECT array_agg(ledger_entry_id ORDER BY ledger_entry_id)
                     FROM payout_line WHERE payout_id = lost.id)
                  = (SELECT array_agg(ledger_entry_id ORDER BY ledger_entry_id)
                     FROM payout_line WHERE payout_id = payout.id))
    ) THEN
        RAISE EXCEPTION 'a payout line stands for one whole earning of its performer, in a draft'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'payout_line_earning';
    END IF;
    RETURN NULL;
END
$$;

-- Which row of ours a line waits for: the event that books it is merely late, or waits for a person.
-- While that row may yet book the line, nobody says that the line is something else.
CREATE OR REPLACE FUNCTION line_waits_for(line text) RETURNS text LANGUAGE sql STABLE AS $$
    WITH said AS (
        SELECT * FROM stripe_line WHERE id = line
    ), waiting (type, id, booking_id) AS (
        SELECT 'transfer_reversal', reversal.id, reversal.ledger_transaction_id
        FROM said JOIN transfer_reversal AS reversal
            ON reversal.balance_transaction_id = said.id OR reversal.reversal_id = said.source_id
        WHERE (reversal.currency, reversal.amount_minor) = (said.currency, said.net_minor)
          AND reversal.state NOT IN ('refused', 'rejected')
        UNION ALL
        SELECT 'transfer_reversal', reversal.id, NULL
        FROM said JOIN transfer_reversal AS reversal
            ON (reversal.currency, reversal.amount_minor) = (said.currency, said.net_minor)
        WHERE said.type = 'transfer_refund' AND reversal.reversal_id IS NULL
          AND reversal.due_at IS NOT NULL AND reversal.state IN ('sending', 'unknown')
        UNION ALL
        SELECT 'payout', payout.id, attempt.conclusion_transaction_id
        FROM said JOIN payout_attempt AS attempt ON attempt.transfer_id = said.source_id
        JOIN payout ON payout.id = attempt.payout_id
        WHERE said.type = 'transfer'
          AND (payout.currency, -payout.amount_minor) = (said.currency, said.net_minor)
        UNION ALL
        SELECT 'payout', payout.id, NULL
        FROM said JOIN payout
            ON (payout.currency, -payout.amount_minor) = (said.currency, said.net_minor)
        WHERE said.type = 'transfer' AND (
            payout.state IN ('sending', 'unknown')
            -- Called absent, it may come in late; tried anew, or issued anew, that one is booked:
            -- as long as nothing else has paid these earnings.
            OR EXISTS (SELECT FROM payout_attempt
                WHERE payout_id = payout.id AND error_code = 'not_found')
            AND NOT EXISTS (
                SELECT FROM payout_line AS own
                JOIN payout_line AS paying ON paying.ledger_entry_id = own.ledger_entry_id
                JOIN payout AS settled ON settled.id = paying.payout_id
                WHERE own.payout_id = payout.id
                  AND settled.state IN ('paid', 'partly_reversed', 'reversed')))
        UNION ALL
        SELECT 'withdrawal', withdrawal.id, withdrawal.conclusion_transaction_id
        FROM said JOIN withdrawal
            ON (withdrawal.currency, -withdrawal.amount_minor) = (said.currency, said.net_minor)
        WHERE said.type = 'payout' AND (
            withdrawal.state IN ('sending', 'unknown')
            OR withdrawal.stripe_payout_id = said.source_id)
        UNION ALL
        SELECT 'refund', refund.id, NULL
        FROM said JOIN refund ON refund.stripe_refund_id = said.source_id
        WHERE refund.ended_transaction_id IS NULL
          -- Beside what it takes there may be a fee.
          AND refund.currency = said.currency
          AND CASE WHEN refund.confirmed_transaction_id IS NULL
              THEN -refund.amount_minor = said.amount_minor
              ELSE refund.amount_minor = said.net_minor END
        UNION ALL
        SELECT 'refund', refund.id, NULL
        FROM said JOIN refund
            ON (refund.currency, -refund.amount_minor) = (said.currency, said.amount_minor)
        WHERE said.type IN ('refund', 'payment_refund')
          AND refund.due_at IS NOT NULL AND refund.state IN ('sending', 'unknown')
        UNION ALL
        SELECT 'dispute', dispute.id, NULL
        FROM said JOIN dispute ON dispute.stripe_dispute_id = said.source_id
        WHERE dispute.currency = said.currency AND dispute.state IN ('inquiry', 'open')
          -- What it cannot book itself is a person's to book.
          AND num_nonnulls(dispute.unbookable_line_id, dispute.unbookable_return_line_id) = 0
        UNION ALL
        SELECT 'deposit', deposit.id, NULL
        FROM said JOIN deposit
            ON (deposit.currency, deposit.amount_minor) = (said.currency, said.amount_minor)
        WHERE said.type IN ('charge', 'payment')
          -- Two clocks.
          AND deposit.created_at <= said.created_at + interval '5 minutes'
          AND deposit.due_at IS NOT NULL AND deposit.state = 'awaiting_payment'
          -- Each has its line: what that is, is said by a person.
          AND deposit.foreign_line_id IS NULL
          AND NOT EXISTS (SELECT FROM deposit AS other WHERE other.foreign_line_id = said.id)
    )
    SELECT format('%s %s', type, id)
    FROM waiting
    -- What is booked waits for a line only while none is named.
    WHERE booking_id IS NULL OR NOT EXISTS (
        SELECT FROM booked_balance_transaction WHERE ledger_transaction_id = booking_id)
    LIMIT 1
$$;
