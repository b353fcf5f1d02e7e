"""What stands on accounts of one kind, and since when nothing has been settled there."""

# Since the first entry after the account was last at zero. Parameters: `kind` and `as_of`.
STANDING = """
    standing AS (
        SELECT account_id, owner_id, currency, sum(amount_minor)::bigint AS amount_minor,
               min(booked_at) AS since
        FROM (
            SELECT turned.*,
                   max(number) FILTER (WHERE balance_minor = 0) OVER (PARTITION BY account_id)
                       AS settled
            FROM (
                SELECT entry.account_id, account.owner_id, account.currency, header.booked_at,
                       entry.amount_minor, row_number() OVER turn AS number,
                       sum(entry.amount_minor) OVER turn AS balance_minor
                FROM account
                JOIN ledger_entry AS entry ON entry.account_id = account.id
                JOIN ledger_transaction AS header ON header.id = entry.transaction_id
                WHERE account.kind = :kind AND header.booked_at <= :as_of
                WINDOW turn AS (PARTITION BY entry.account_id ORDER BY header.booked_at, entry.id)
            ) AS turned
        ) AS counted
        WHERE number > coalesce(settled, 0)
        GROUP BY account_id, owner_id, currency
    )
"""
