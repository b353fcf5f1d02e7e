ALTER TABLE payout_exclusion DROP CONSTRAINT ck_payout_exclusion_reason_known;
ALTER TABLE payout_exclusion ADD CONSTRAINT ck_payout_exclusion_reason_known CHECK (reason IN ('no_account', 'account_not_active', 'below_minimum'));

-- As it was before.
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
            -- Found after it was called absent: approved anew, that one is booked.
            OR payout.state IN ('held', 'approved')
            AND strpos(payout.state_reason, said.source_id) > 0)
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
          AND (refund.currency, CASE WHEN refund.confirmed_transaction_id IS NULL
              THEN -refund.amount_minor ELSE refund.amount_minor END)
              = (said.currency, said.net_minor)
        UNION ALL
        SELECT 'refund', refund.id, NULL
        FROM said JOIN refund
            ON (refund.currency, -refund.amount_minor) = (said.currency, said.net_minor)
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
