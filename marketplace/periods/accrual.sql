-- Worked before a period's end and not decided by then, at the locked rates: what the decision would
-- have booked. It is reversed on the first day of the next period. No end lies in the future.
SELECT claim.id AS claim_id, claim.client_id, claim.performer_id, claim.currency, worked.seconds,
       claim.rate_minor_per_hour, pay_minor(worked.seconds, claim.rate_minor_per_hour) AS pay_minor,
       fee_minor(pay_minor(worked.seconds, claim.rate_minor_per_hour), claim.fee_basis_points)
           AS fee_minor
FROM claim
JOIN LATERAL (
    SELECT coalesce(extract(epoch FROM sum(
        least(coalesce(ended_at, ends_by), :end) - started_at
    ))::bigint, 0) AS seconds
    FROM time_entry
    WHERE claim_id = claim.id AND started_at < :end
) AS worked ON worked.seconds > 0
WHERE claim.claimed_at < :end
  AND NOT EXISTS (
      SELECT FROM pay_decision
      LEFT JOIN ledger_transaction AS header ON header.id = pay_decision.ledger_transaction_id
      WHERE pay_decision.claim_id = claim.id
        AND coalesce(header.booked_at, pay_decision.decided_at) < :end
  )
ORDER BY claim.id
