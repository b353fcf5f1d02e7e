-- Booked events whose line Stripe named later than its answer: each line is attached to its own
-- event, by the object it speaks of, and only if it moved what was booked.
WITH unnamed AS (
    SELECT attempt.transfer_id AS source_id, 'transfer' AS type, payout.currency,
           -payout.amount_minor AS net_minor, conclusion_transaction_id AS ledger_transaction_id
    FROM payout_attempt AS attempt JOIN payout ON payout.id = attempt.payout_id
    WHERE attempt.outcome = 'succeeded'
    UNION ALL
    SELECT stripe_payout_id, 'payout', currency, -amount_minor, conclusion_transaction_id
    FROM withdrawal WHERE stripe_payout_id IS NOT NULL
    UNION ALL
    SELECT reversal_id, 'transfer_refund', currency, amount_minor, ledger_transaction_id
    FROM transfer_reversal WHERE state = 'reversed'
)
INSERT INTO booked_balance_transaction (id, net_minor, currency, ledger_transaction_id)
SELECT line.id, line.net_minor, line.currency, unnamed.ledger_transaction_id
FROM unnamed
JOIN stripe_line AS line USING (source_id, type, currency, net_minor)
WHERE NOT EXISTS (
    SELECT FROM booked_balance_transaction AS booked
    WHERE booked.ledger_transaction_id = unnamed.ledger_transaction_id)
ON CONFLICT DO NOTHING
RETURNING id
