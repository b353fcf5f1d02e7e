-- Draft a run: everything owed in a currency by the cut-off that is in no payout yet, one payout per
-- performer who can be paid, one exclusion (with what to do) per performer who cannot.
-- Answers nothing when the run of this slot exists already.
WITH run AS (
    INSERT INTO payout_run (id, currency, state, slot_at, cut_off_at, prepared_by)
    VALUES (:run, :currency, 'draft', :slot_at, :cut_off_at, :prepared_by)
    ON CONFLICT (currency, slot_at) DO NOTHING
    RETURNING id, currency, cut_off_at
), owed AS (
    SELECT entry.id AS ledger_entry_id, account.owner_id AS performer_id,
           -entry.amount_minor AS amount_minor
    FROM run
    JOIN account ON account.kind = 'performer_payable' AND account.currency = run.currency
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
    WHERE is_earning(earning.kind)
      -- What two people netted since then is not paid either.
      AND (earning.booked_at <= run.cut_off_at OR earning.kind = 'receivable_netted')
      AND NOT EXISTS (
          SELECT FROM payout_line
          WHERE payout_line.ledger_entry_id = entry.id AND released_at IS NULL
      )
), total AS (
    SELECT performer_id, sum(amount_minor)::bigint AS amount_minor
    FROM owed GROUP BY performer_id HAVING sum(amount_minor) > 0
), judged AS (
    SELECT total.performer_id, total.amount_minor, payout_account.stripe_account_id,
           CASE
               WHEN stripe_account_id IS NULL THEN 'no_account'
               WHEN is_wrong_destination(total.performer_id, stripe_account_id)
                   THEN 'wrong_destination'
               WHEN transfers <> 'active' THEN 'account_not_active'
               WHEN total.amount_minor < :minimum_minor THEN 'below_minimum'
           END AS reason,
           payout_account.requirement
    FROM total
    LEFT JOIN payout_account ON payout_account.performer_id = total.performer_id
), paid AS (
    INSERT INTO payout (id, run_id, performer_id, currency, amount_minor, destination, state)
    SELECT uuidv7(), run.id, performer_id, run.currency, amount_minor, stripe_account_id, 'draft'
    FROM judged CROSS JOIN run
    WHERE reason IS NULL
    RETURNING id, performer_id
), line AS (
    INSERT INTO payout_line (id, payout_id, ledger_entry_id, amount_minor)
    SELECT uuidv7(), paid.id, owed.ledger_entry_id, owed.amount_minor
    FROM paid JOIN owed ON owed.performer_id = paid.performer_id
), excluded AS (
    INSERT INTO payout_exclusion (id, run_id, performer_id, amount_minor, reason, remedy, next_run_at)
    SELECT uuidv7(), run.id, performer_id, amount_minor, reason,
           CASE reason
               WHEN 'no_account' THEN 'Open your payout account; your earnings go on accumulating.'
               WHEN 'wrong_destination' THEN 'What was paid to your payout account is taken back, as '
                   || 'it is not yours: ask finance to retire it, then open another one. '
                   || 'Your earnings go on accumulating.'
               WHEN 'account_not_active' THEN 'Complete what Stripe asks for'
                   || coalesce(': ' || requirement, '') || '. Your earnings go on accumulating.'
               ELSE 'Nothing to do: earnings accumulate until they reach the minimum payout.'
           END,
           next_run_at(run.cut_off_at)
    FROM judged CROSS JOIN run
    WHERE reason IS NOT NULL
)
SELECT id FROM run
