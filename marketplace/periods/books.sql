-- The books at a period's end, per currency, beside Stripe's own lines up to then. A line that was
-- made before the end and booked after it, or the other way round, is a difference of timing, and
-- stands on its own.
WITH ledger AS (
    SELECT account.currency, account.kind, sum(entry.amount_minor) AS minor
    FROM ledger_entry AS entry
    JOIN account ON account.id = entry.account_id
    JOIN ledger_transaction AS header ON header.id = entry.transaction_id
    WHERE header.booked_at < :end
    GROUP BY account.id
), booked AS (
    SELECT line.id, header.booked_at
    FROM booked_balance_transaction AS line
    JOIN ledger_transaction AS header ON header.id = line.ledger_transaction_id
), stripe AS (
    SELECT line.currency,
           sum(line.net_minor) FILTER (WHERE line.created_at < :end) AS listed,
           sum(line.net_minor) FILTER (
               WHERE line.created_at < :end AND booked.booked_at >= :end) AS booked_later,
           -- Stripe's clock may be ahead of ours.
           sum(line.net_minor) FILTER (
               WHERE line.created_at >= :end AND booked.booked_at < :end) AS booked_earlier,
           count(*) FILTER (WHERE line.created_at < :end AND booked.id IS NULL) AS not_booked
    FROM stripe_line AS line LEFT JOIN booked ON booked.id = line.id
    WHERE (line.created_at < :end OR booked.booked_at < :end) AND line.net_minor <> 0
    GROUP BY line.currency
), currencies AS (
    SELECT currency FROM ledger UNION SELECT currency FROM stripe
)
SELECT currency,
       coalesce(sum(ledger.minor), 0)::bigint AS ledger_sum_minor,
       coalesce(sum(ledger.minor) FILTER (WHERE kind IN ('stripe_pending', 'stripe_available')), 0)
           ::bigint AS cash_minor,
       coalesce(-sum(ledger.minor) FILTER (WHERE kind IN (
               'client_wallet', 'job_reserve', 'performer_payable', 'transfers_in_flight',
               'refunds_in_flight', 'bank_in_transit'
           )
           -- A debt that was paid before it was found: it is somebody's.
           OR (kind = 'performer_receivable' AND ledger.minor < 0)
       ), 0)::bigint AS owed_minor,
       coalesce(max(stripe.listed), 0)::bigint AS stripe_lines_minor,
       coalesce(max(stripe.booked_later), 0)::bigint AS booked_later_minor,
       coalesce(max(stripe.booked_earlier), 0)::bigint AS booked_earlier_minor,
       coalesce(max(stripe.not_booked), 0)::bigint AS lines_not_booked
FROM currencies
LEFT JOIN ledger USING (currency)
LEFT JOIN stripe USING (currency)
GROUP BY currency
ORDER BY currency
