-- Booked events whose line Stripe named later than its answer: each line is attached to its own
-- event, by the object it speaks of, and only if it moved what was booked.
WITH unbooked AS MATERIALIZED (
    SELECT id, type, source_id, currency, net_minor
    FROM stripe_line AS line
    WHERE type IN ('transfer', 'payout', 'transfer_refund')
      AND created_at > marketplace_now() - interval '60 days'
      AND NOT EXISTS (SELECT FROM booked_balance_transaction WHERE id = line.id)
), named AS (
    SELECT line.id, line.net_minor, line.currency, conclusion_transaction_id AS booking_id
    FROM unbooked AS line
    JOIN payout_attempt AS attempt ON attempt.transfer_id = line.source_id
    JOIN payout ON payout.id = attempt.payout_id
    WHERE line.type = 'transfer' AND attempt.outcome = 'succeeded'
      AND (payout.currency, -payout.amount_minor) = (line.currency, line.net_minor)
    UNION ALL
    SELECT line.id, line.net_minor, line.currency, conclusion_transaction_id
    FROM unbooked AS line
    JOIN withdrawal ON stripe_payout_id = line.source_id
    WHERE line.type = 'payout'
      AND (withdrawal.currency, -withdrawal.amount_minor) = (line.currency, line.net_minor)
    UNION ALL
    SELECT line.id, line.net_minor, line.currency, ledger_transaction_id
    FROM unbooked AS line
    JOIN transfer_reversal AS reversal ON reversal.reversal_id = line.source_id
    WHERE line.type = 'transfer_refund' AND reversal.state = 'reversed'
      AND (reversal.currency, reversal.amount_minor) = (line.currency, line.net_minor)
)
INSERT INTO booked_balance_transaction (id, net_minor, currency, ledger_transaction_id)
SELECT id, net_minor, currency, booking_id
FROM named
WHERE NOT EXISTS (
    SELECT FROM booked_balance_transaction AS booked
    WHERE booked.ledger_transaction_id = named.booking_id)
ON CONFLICT DO NOTHING
RETURNING id
