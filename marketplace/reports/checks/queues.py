"""Nothing waits past its time, and no scheduled payout run is missing."""

# Whatever has a `due_at` is a queue; late is what nobody came for within five minutes.
QUEUES = {
    "claim_deadline": "claim WHERE state IN ('active', 'in_session', 'retake')",
    "claim_pay": "claim WHERE pay_due_at IS NOT NULL",
    "review": "submission WHERE state = 'in_review'",
    "recording": "recording WHERE due_at IS NOT NULL",
    # Of a paused run only what is on its way.
    "payout": "payout WHERE due_at IS NOT NULL AND NOT (state = 'approved' AND EXISTS ("
    "SELECT FROM payout_run WHERE payout_run.id = payout.run_id AND payout_run.state = 'paused'))",
    "reversal": "transfer_reversal WHERE due_at IS NOT NULL",
    "deposit": "deposit WHERE due_at IS NOT NULL",
    "dispute": "dispute WHERE due_at IS NOT NULL",
    "refund": "refund WHERE due_at IS NOT NULL",
    "topup": "topup WHERE due_at IS NOT NULL",
    "withdrawal": "withdrawal WHERE due_at IS NOT NULL",
    "stripe_event": "stripe_event WHERE handled_at IS NULL",
    "audition": "audition WHERE due_at IS NOT NULL",
    "payout_account": "payout_account WHERE stripe_account_id IS NOT NULL AND due_at IS NOT NULL",
    "bank_payout": "payout_account WHERE stripe_account_id IS NOT NULL",
}
DUE_COLUMNS = {
    "claim_deadline": "deadline",
    "claim_pay": "pay_due_at",
    "review": "review_due_at",
    "bank_payout": "bank_due_at",
}
# Looks, now and then, at what an event tells at once and is asked again before money is sent: the
# metrics show that nobody came, but nothing waits for it.
LOOKS = ("payout_account", "bank_payout")

WAITING = " UNION ALL ".join(
    f"SELECT '{queue}' AS queue, count(*) AS waiting, count(*) FILTER ("  # noqa: S608 - this module's words
    f"WHERE {DUE_COLUMNS.get(queue, 'due_at')} < marketplace_now() - interval '5 minutes') AS late,"
    f" min({DUE_COLUMNS.get(queue, 'due_at')}) AS oldest FROM {where}"
    for queue, where in QUEUES.items()
)

I13 = f"""
    SELECT format('%s of %s rows of %s are late, the oldest was due at %s',
                  late, waiting, queue, oldest) AS violation
    FROM ({WAITING}) AS queues WHERE late > 0 AND queue NOT IN {LOOKS}
"""  # noqa: S608 - this module's words

I10 = """
    SELECT format('no payout run of %s was drafted, but %s were owed by then in %s',
                  slot_at, sum(minor), currency) AS violation
    FROM (
        -- What a performer is owed, less what two people took off it.
        SELECT slot.slot_at, account.currency, -sum(entry.amount_minor) AS minor
        FROM last_run_at(marketplace_now() - interval '5 minutes') AS slot (slot_at),
             account
        JOIN ledger_entry AS entry ON entry.account_id = account.id
        JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
        WHERE account.kind = 'performer_payable' AND is_earning(earning.kind)
          AND (earning.booked_at <= slot.slot_at OR earning.kind = 'receivable_netted')
          AND NOT EXISTS (
              SELECT FROM payout_line WHERE ledger_entry_id = entry.id AND released_at IS NULL
          )
        GROUP BY slot.slot_at, account.id HAVING sum(entry.amount_minor) < 0
    ) AS owed
    WHERE NOT EXISTS (
        SELECT FROM payout_run
        WHERE payout_run.currency = owed.currency AND payout_run.slot_at >= owed.slot_at
    )
    GROUP BY slot_at, currency
"""
