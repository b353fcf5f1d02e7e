"""The ledger by itself: it balances, and what is on its way arrives."""

I3 = """
    SELECT format('ledger transaction %s sums to %s', transaction_id, sum(amount_minor))
        AS violation
    FROM ledger_entry GROUP BY transaction_id HAVING sum(amount_minor) <> 0
    UNION ALL
    SELECT format('ledger transaction %s has no entries', id)
    FROM ledger_transaction
    WHERE NOT EXISTS (SELECT FROM ledger_entry WHERE transaction_id = ledger_transaction.id)
    UNION ALL
    SELECT format('%s sums to %s', currency, sum(amount_minor))
    FROM ledger_entry GROUP BY currency HAVING sum(amount_minor) <> 0
    UNION ALL
    SELECT format('%s of %s holds %s, its entries %s',
                  kind, owner_id, balance_minor, coalesce(minor, 0))
    FROM account
    LEFT JOIN account_balance ON account_id = account.id
    LEFT JOIN LATERAL (
        SELECT -sum(amount_minor) AS minor FROM ledger_entry
        WHERE ledger_entry.account_id = account.id
    ) AS entries ON true
    WHERE kind IN ('client_wallet', 'job_reserve')
      AND balance_minor IS DISTINCT FROM coalesce(minor, 0)
"""

I14 = """
    SELECT format('%s %s of %s %s is open since %s', kind, minor, source_type, source_id, since)
        AS violation
    FROM (
        SELECT account.kind, booked.source_type, booked.source_id,
               sum(ledger_entry.amount_minor) AS minor,
               min(booked.booked_at) AS since,
               -- Pending funds are due when Stripe says; the rest at once.
               max(coalesce(deposit.available_on, booked.booked_at)) AS due_at
        FROM ledger_entry
        JOIN account ON account.id = account_id
        JOIN ledger_transaction AS booked ON booked.id = transaction_id
        LEFT JOIN deposit ON deposit.id = booked.source_id
        WHERE account.kind IN (
            'transfers_in_flight', 'refunds_in_flight', 'bank_in_transit', 'stripe_pending')
        GROUP BY account.kind, booked.source_type, booked.source_id
    ) AS open_source
    WHERE minor <> 0 AND due_at < marketplace_now() - interval '24 hours'
"""

STRIPE_ACCOUNTS = """
    SELECT account.currency, coalesce(sum(amount_minor), 0)::bigint AS minor
    FROM account LEFT JOIN ledger_entry ON account_id = account.id
    WHERE kind IN ('stripe_pending', 'stripe_available')
    GROUP BY account.currency
"""

OWED = """
    SELECT account.currency, coalesce(-sum(amount_minor), 0)::bigint AS minor
    FROM account JOIN ledger_entry ON account_id = account.id
    WHERE kind IN (
            'client_wallet', 'job_reserve', 'performer_payable', 'transfers_in_flight',
            'refunds_in_flight', 'bank_in_transit'
        )
        -- A debt that was paid before it was found: it is somebody's.
        OR account.id IN (
            SELECT account_id FROM ledger_entry JOIN account AS debt ON debt.id = account_id
            WHERE debt.kind = 'performer_receivable'
            GROUP BY account_id HAVING sum(amount_minor) < 0
        )
    GROUP BY account.currency
"""
