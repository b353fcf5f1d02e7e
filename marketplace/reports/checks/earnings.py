"""Every paid second is owed once, is paid once, and by its date."""

I2 = """
    -- An earning differs from what was decided.
    SELECT format('%s %s pays %s, its performer''s payable got %s',
                  decided.what, decided.id, decided.pay_minor, coalesce(booked.minor, 0))
        AS violation
    FROM (
        SELECT 'claim' AS what, claim_id AS id, performer_id, pay_minor, ledger_transaction_id
        FROM pay_decision
        UNION ALL
        SELECT 'audition', id, performer_id, pay_minor, ledger_transaction_id
        FROM audition
        UNION ALL
        SELECT 'correction', id, performer_id, client_minor + platform_minor, ledger_transaction_id
        FROM correction WHERE state = 'approved' AND client_minor + platform_minor > 0
    ) AS decided
    LEFT JOIN LATERAL (
        SELECT -sum(entry.amount_minor) AS minor
        FROM ledger_entry AS entry
        JOIN account ON account.id = entry.account_id
        WHERE entry.transaction_id = decided.ledger_transaction_id
          AND account.kind = 'performer_payable' AND account.owner_id = decided.performer_id
    ) AS booked ON true
    WHERE decided.pay_minor <> coalesce(booked.minor, 0)
    UNION ALL
    -- However many decisions: the time of a claim is paid once.
    SELECT format('claim %s was paid %s in %s decisions, its %s seconds earn %s',
                  claim.id, decided.minor, decisions, coalesce(seconds, 0), earned)
    FROM claim
    JOIN (
        SELECT claim_id, sum(pay_minor) AS minor, count(*) AS decisions
        FROM pay_decision GROUP BY claim_id
    ) AS decided ON decided.claim_id = claim.id
    LEFT JOIN (
        SELECT claim_id, extract(epoch FROM sum(ended_at - started_at))::bigint AS seconds
        FROM time_entry GROUP BY claim_id
    ) AS worked ON worked.claim_id = claim.id,
    LATERAL pay_minor(coalesce(seconds, 0), rate_minor_per_hour) AS earned
    WHERE decided.minor > earned
    UNION ALL
    -- A corrected claim is paid what its last correction says, and its client the fee on its part.
    SELECT format('claim %s has bookings of %s and a fee of %s, its last correction makes %s and %s',
                  total.claim_id, pay, fee, earned, due)
    FROM (
        SELECT claim_id, sum(client) AS client, sum(client + platform) AS pay, sum(fee) AS fee
        FROM (
            SELECT claim_id, pay_minor AS client, 0 AS platform, fee_minor AS fee FROM pay_decision
            UNION ALL
            SELECT claim_id, client_minor, platform_minor, fee_minor
            FROM correction WHERE state = 'approved' AND claim_id IS NOT NULL
        ) AS booked GROUP BY claim_id
    ) AS total
    JOIN claim ON claim.id = total.claim_id
    JOIN LATERAL (
        SELECT seconds FROM correction
        WHERE claim_id = total.claim_id AND state = 'approved'
        ORDER BY decided_at DESC, id DESC LIMIT 1
    ) AS last ON true,
    LATERAL pay_minor(last.seconds, claim.rate_minor_per_hour) AS earned,
    LATERAL fee_minor(client::bigint, claim.fee_basis_points) AS due
    WHERE (pay, fee) <> (earned, due)
    UNION ALL
    SELECT format('earning %s is in %s payouts at once', ledger_entry_id, count(*))
    FROM payout_line WHERE released_at IS NULL
    GROUP BY ledger_entry_id HAVING count(*) > 1
    UNION ALL
    SELECT format('payout %s of %s has lines of %s', payout.id, amount_minor, lines)
    FROM payout
    LEFT JOIN LATERAL (
        SELECT sum(line.amount_minor) AS lines FROM payout_line AS line
        WHERE line.payout_id = payout.id
    ) AS held ON true
    WHERE lines IS DISTINCT FROM amount_minor
    UNION ALL
    -- What a performer is still owed is what they earned and was not sent.
    SELECT format('performer %s is owed %s %s by the ledger, %s by their earnings',
                  account.owner_id, -sum(entry.amount_minor), account.currency, max(due.minor))
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    JOIN LATERAL (
        SELECT coalesce(sum(-earning.amount_minor), 0) AS minor
        FROM ledger_entry AS earning
        JOIN ledger_transaction AS source ON source.id = earning.transaction_id
        WHERE earning.account_id = account.id
          AND is_earning(source.kind)
          AND NOT EXISTS (
              SELECT FROM payout_line
              JOIN payout ON payout.id = payout_line.payout_id
              WHERE payout_line.ledger_entry_id = earning.id AND released_at IS NULL
                AND payout.state IN
                    ('sending', 'unknown', 'paid', 'partly_reversed', 'reversed')
          )
    ) AS due ON true
    WHERE account.kind = 'performer_payable'
    GROUP BY account.id
    HAVING -sum(entry.amount_minor) <> max(due.minor)
"""

PAY_BY = """
    WITH due AS (
        SELECT 'claim' AS what, claim.id, claim.performer_id, claim.currency, decision.decided_at,
               decision.ledger_transaction_id,
               -- Time that two people disagreed about is paid with the run after their word.
               CASE WHEN EXISTS (SELECT FROM withholding WHERE withholding.claim_id = claim.id)
                   THEN greatest(pay_by, next_run_at(decision.decided_at) + interval '48 hours')
                   ELSE pay_by
               END AS pay_by
        FROM claim
        JOIN pay_decision AS decision ON decision.claim_id = claim.id AND decision.pay_minor > 0
        WHERE claim.pay_by < marketplace_now()
        UNION ALL
        -- What came back from a wrong destination is owed again, and paid with the run after.
        SELECT 'reversal', reversal.id, payout.performer_id, reversal.currency,
               reversal.concluded_at, reversal.ledger_transaction_id,
               next_run_at(reversal.concluded_at) + interval '48 hours'
        FROM transfer_reversal AS reversal
        JOIN payout ON payout.id = reversal.payout_id
        WHERE reversal.state = 'reversed' AND cause = 'wrong_destination'
        UNION ALL
        SELECT 'correction', id, performer_id, currency, decided_at, ledger_transaction_id,
               next_run_at(decided_at) + interval '48 hours'
        FROM correction WHERE state = 'approved' AND client_minor + platform_minor > 0
    ), earned AS (
        SELECT due.*, payout.id AS payout_id, payout.state, run.id AS run_id, run.cut_off_at,
               -- Why it waits stands with it, or with its run while that is paused.
               coalesce(payout.state_reason, CASE run.state WHEN 'paused' THEN run.state_reason END)
                   AS state_reason,
               attempt.concluded_at AS paid_at
        FROM due
        JOIN ledger_entry AS entry ON entry.transaction_id = due.ledger_transaction_id
        JOIN account ON account.id = entry.account_id AND account.kind = 'performer_payable'
        LEFT JOIN payout_line AS line
            ON line.ledger_entry_id = entry.id AND line.released_at IS NULL
        LEFT JOIN payout ON payout.id = line.payout_id
        LEFT JOIN payout_run AS run ON run.id = payout.run_id
        LEFT JOIN payout_attempt AS attempt
            ON attempt.payout_id = payout.id AND attempt.outcome = 'succeeded'
    )
    SELECT format('%s %s should have been paid by %s: %s', what, id, pay_by,
                  coalesce('paid ' || paid_at, state, 'in no payout')) AS found,
           -- Nobody can mend it any more: it is counted until the next run, and then only noted.
           coalesce(next_run_at(paid_at) < marketplace_now(), false) AS is_past
    FROM earned
    WHERE pay_by < coalesce(paid_at, marketplace_now())
      -- What two people took off it in full is not owed.
      AND NOT (payout_id IS NULL AND free_pay_minor(performer_id, currency) <= 0)
      -- Stated reasons: the payout's own, or the one given when a run left the performer out.
      AND CASE WHEN paid_at IS NULL THEN state_reason IS NULL ELSE NOT EXISTS (
          SELECT FROM audit_event
          WHERE subject_type = 'payout' AND subject_id = payout_id AND reason IS NOT NULL
            -- Why it came back afterwards is no reason for having paid it late.
            AND id < ALL (
                SELECT moved.id FROM audit_event AS moved
                WHERE moved.subject_type = 'payout' AND moved.subject_id = payout_id
                  AND moved.to_state IN ('partly_reversed', 'reversed')
            )
      ) AND NOT EXISTS (
          SELECT FROM audit_event
          WHERE subject_type = 'payout_run' AND subject_id = run_id AND to_state = 'paused'
      ) END
      AND NOT EXISTS (
          SELECT FROM payout_exclusion
          JOIN payout_run ON payout_run.id = payout_exclusion.run_id
          WHERE payout_exclusion.performer_id = earned.performer_id
            AND payout_run.cut_off_at >= earned.decided_at
            -- Only the word of the latest run counts: the latest before the one that paid.
            AND payout_run.id = (
                SELECT id FROM payout_run AS latest
                WHERE latest.currency = earned.currency AND latest.state <> 'discarded'
                  AND (paid_at IS NULL OR latest.cut_off_at < earned.cut_off_at)
                ORDER BY cut_off_at DESC, id DESC LIMIT 1
            )
      )
    UNION ALL
    SELECT format('claim %s should have been paid by %s, but is not even decided', claim.id, pay_by),
           false
    FROM claim
    WHERE claim.pay_by < marketplace_now()
      AND NOT EXISTS (SELECT FROM pay_decision WHERE claim_id = claim.id)
      AND NOT EXISTS (
          SELECT FROM withholding WHERE withholding.claim_id = claim.id AND state = 'proposed'
      )
      AND EXISTS (SELECT FROM time_entry WHERE claim_id = claim.id AND ended_at > started_at)
"""

# Of each transfer that paid something: what must have come back by then, and what may have. One that
# Stripe has and nobody here asked for is named.
CAME_BACK = """
    SELECT payout.transfer_id,
           coalesce(sum(reversal.amount_minor) FILTER (WHERE reversal.state = 'reversed'
               AND concluded_at <= :read_from), 0)::bigint AS least,
           coalesce(sum(reversal.amount_minor) FILTER (WHERE reversal.state IN
               ('reversed', 'sending', 'unknown')), 0)::bigint AS most,
           coalesce('; nobody asked for ' || string_agg(reversal_id, ', ' ORDER BY reversal.id)
               FILTER (WHERE reversal.state IN ('found', 'asked')), '') AS unexplained
    FROM payout
    LEFT JOIN transfer_reversal AS reversal ON reversal.payout_id = payout.id
    WHERE payout.transfer_id IS NOT NULL
    GROUP BY payout.id
"""
