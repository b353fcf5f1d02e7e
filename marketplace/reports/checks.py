"""The statements behind `verify`. Each row that one answers (its `violation`) is a violation."""

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
          AND source.kind IN ('claim_paid', 'audition_paid')
          AND NOT EXISTS (
              SELECT FROM payout_line
              JOIN payout ON payout.id = payout_line.payout_id
              WHERE payout_line.ledger_entry_id = earning.id AND released_at IS NULL
                AND payout.state IN ('sending', 'unknown', 'paid')
          )
    ) AS due ON true
    WHERE account.kind = 'performer_payable'
    GROUP BY account.id
    HAVING -sum(entry.amount_minor) <> max(due.minor)
"""

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

STRIPE_ACCOUNTS = """
    SELECT account.currency, coalesce(sum(amount_minor), 0)::bigint AS minor
    FROM account LEFT JOIN ledger_entry ON account_id = account.id
    WHERE kind IN ('stripe_pending', 'stripe_available')
    GROUP BY account.currency
"""

I5 = """
    SELECT format('ledger transaction %s (%s) has no source %s %s', id, kind, source_type, source_id)
        AS violation
    FROM ledger_transaction
    WHERE NOT CASE source_type
        WHEN 'deposit' THEN EXISTS (SELECT FROM deposit WHERE id = source_id)
        WHEN 'topup' THEN EXISTS (SELECT FROM topup WHERE id = source_id)
        WHEN 'reserve_move' THEN EXISTS (SELECT FROM reserve_move
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
        WHEN 'pay_decision' THEN EXISTS (SELECT FROM pay_decision
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
        WHEN 'audition' THEN EXISTS (SELECT FROM audition
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
        WHEN 'payout_attempt' THEN EXISTS (SELECT FROM payout_attempt
            WHERE id = source_id AND ledger_transaction.id
                IN (in_flight_transaction_id, conclusion_transaction_id))
        ELSE false
    END
    UNION ALL
    SELECT format('claim %s was decided on %s seconds, its entries have %s',
                  decision.claim_id, decision.seconds, coalesce(worked.seconds, 0))
    FROM pay_decision AS decision
    LEFT JOIN LATERAL (
        SELECT extract(epoch FROM sum(ended_at - started_at))::bigint AS seconds
        FROM time_entry WHERE time_entry.claim_id = decision.claim_id
    ) AS worked ON true
    WHERE decision.seconds <> coalesce(worked.seconds, 0)
    UNION ALL
    SELECT format('claim %s worked %s seconds in %s seconds of wall time', claim.id, worked, wall)
    FROM claim
    JOIN LATERAL (
        SELECT extract(epoch FROM sum(ended_at - started_at)) AS worked,
               extract(epoch FROM max(ended_at) - claim.claimed_at) AS wall
        FROM time_entry WHERE time_entry.claim_id = claim.id
    ) AS time ON true
    WHERE worked > wall
    UNION ALL
    SELECT format('claim %s locked rate %s, but %s was in force', claim.id, rate_id, in_force.id)
    FROM claim
    LEFT JOIN LATERAL (
        SELECT rate.id FROM rate
        WHERE rate.lineage_id = claim.lineage_id AND effective_from <= claim.claimed_at
        ORDER BY effective_from DESC, number DESC LIMIT 1
    ) AS in_force ON true
    WHERE in_force.id IS DISTINCT FROM claim.rate_id
    UNION ALL
    SELECT format('claim %s was made in another lineage than its job', claim.id)
    FROM claim JOIN job ON job.id = claim.job_id WHERE job.lineage_id <> claim.lineage_id
    UNION ALL
    SELECT format('payout %s is paid, but no attempt of it succeeded', payout.id)
    FROM payout
    WHERE state = 'paid' AND NOT EXISTS (
        SELECT FROM payout_attempt
        WHERE payout_id = payout.id AND outcome = 'succeeded'
          AND payout_attempt.transfer_id = payout.transfer_id
          AND conclusion_transaction_id IS NOT NULL
    )
    UNION ALL
    SELECT format('claim %s ended with time on it, but no decision is made or due', claim.id)
    FROM claim
    WHERE state IN ('settled', 'released', 'expired') AND pay_due_at IS NULL
      AND NOT EXISTS (SELECT FROM pay_decision WHERE claim_id = claim.id)
      AND EXISTS (SELECT FROM time_entry
          WHERE claim_id = claim.id AND ended_at > started_at)
    UNION ALL
    SELECT format('job %s is closed, but %s are still set aside for it', job.id, sum(balance_minor))
    FROM job
    JOIN reservation ON reservation.subject_id = job.id
    JOIN account_balance
        ON account_id = account_id('job_reserve', reservation.id, reservation.currency)
    WHERE job.state = 'closed'
    GROUP BY job.id HAVING sum(balance_minor) > 0
"""

I5_ENTRIES = """
    -- What each event's own row says must be booked, and what is: entry by entry, both ways.
    WITH said (kind, source_id, currency, account, owner_id, minor) AS (
        SELECT 'deposit_credited', id, currency, entry.*
        FROM deposit, LATERAL (VALUES
            ('stripe_pending', NULL::uuid, amount_minor - coalesce(fee_minor, 0)),
            ('stripe_fees', NULL, fee_minor),
            ('client_wallet', client_id, -amount_minor)
        ) AS entry
        WHERE state IN ('credited', 'available')
        UNION ALL
        SELECT 'funds_available', id, currency, entry.*
        FROM deposit, LATERAL (VALUES
            ('stripe_available', NULL::uuid, amount_minor - coalesce(fee_minor, 0)),
            ('stripe_pending', NULL, coalesce(fee_minor, 0) - amount_minor)
        ) AS entry
        WHERE state = 'available'
        UNION ALL
        SELECT 'topup_succeeded', id, currency, entry.*
        FROM topup, LATERAL (VALUES
            ('stripe_available', NULL::uuid, amount_minor),
            ('platform_capital', NULL, -amount_minor)
        ) AS entry
        WHERE state = 'succeeded'
        UNION ALL
        SELECT 'reserve_changed', id, currency, entry.*
        FROM reserve_move, LATERAL (VALUES
            (CASE WHEN from_reservation_id IS NULL THEN 'client_wallet' ELSE 'job_reserve' END,
             coalesce(from_reservation_id, client_id), amount_minor),
            (CASE WHEN to_reservation_id IS NULL THEN 'client_wallet' ELSE 'job_reserve' END,
             coalesce(to_reservation_id, client_id), -amount_minor)
        ) AS entry
        UNION ALL
        SELECT 'claim_paid', decision.id, decision.currency, entry.*
        FROM pay_decision AS decision
        LEFT JOIN claim ON claim.id = decision.claim_id
        LEFT JOIN role ON role.id = claim.role_id,
        LATERAL (VALUES
            -- Its role's reserve, or that of a claim which ended before it was decided.
            ('job_reserve', coalesce(claim.reservation_id, role.reservation_id),
             pay_minor + fee_minor),
            ('performer_payable', decision.performer_id, -pay_minor),
            ('platform_fees', NULL, -fee_minor)
        ) AS entry
        UNION ALL
        SELECT 'audition_paid', id, currency, entry.*
        FROM audition, LATERAL (VALUES
            ('platform_expense', NULL::uuid, pay_minor),
            ('performer_payable', performer_id, -pay_minor)
        ) AS entry
        UNION ALL
        SELECT 'transfer_sent', attempt.id, currency, entry.*
        FROM payout_attempt AS attempt
        JOIN payout ON payout.id = payout_id, LATERAL (VALUES
            ('performer_payable', performer_id, amount_minor),
            ('transfers_in_flight', NULL, -amount_minor)
        ) AS entry
        UNION ALL
        SELECT 'transfer_confirmed', attempt.id, currency, entry.*
        FROM payout_attempt AS attempt
        JOIN payout ON payout.id = payout_id, LATERAL (VALUES
            ('transfers_in_flight', NULL::uuid, amount_minor),
            ('stripe_available', NULL, -amount_minor)
        ) AS entry
        WHERE outcome = 'succeeded'
        UNION ALL
        SELECT 'transfer_refused', attempt.id, currency, entry.*
        FROM payout_attempt AS attempt
        JOIN payout ON payout.id = payout_id, LATERAL (VALUES
            ('transfers_in_flight', NULL::uuid, amount_minor),
            ('performer_payable', performer_id, -amount_minor)
        ) AS entry
        WHERE outcome = 'refused'
    ), compared AS (
        SELECT *, false AS is_booked FROM said WHERE minor <> 0
        UNION ALL
        SELECT source.kind, source_id, account.currency, account.kind, owner_id, amount_minor, true
        FROM ledger_entry AS entry
        JOIN account ON account.id = entry.account_id
        JOIN ledger_transaction AS source ON source.id = entry.transaction_id
    )
    SELECT format('%s of %s: the ledger has %s %s on %s in %s entries, its row says %s in %s',
                  kind, source_id, booked, currency, concat_ws(' ', account, owner_id), entries,
                  said, due) AS violation
    FROM (
        SELECT kind, source_id, currency, account, owner_id,
               coalesce(sum(minor) FILTER (WHERE is_booked), 0) AS booked,
               count(*) FILTER (WHERE is_booked) AS entries,
               coalesce(sum(minor) FILTER (WHERE NOT is_booked), 0) AS said,
               count(*) FILTER (WHERE NOT is_booked) AS due
        FROM compared
        GROUP BY kind, source_id, currency, account, owner_id
    ) AS counted
    WHERE (booked, entries) <> (said, due)
"""

I6 = """
    SELECT format('role %s is %s with %s live claims', role.id, role.state, live) AS violation
    FROM role
    JOIN LATERAL (
        SELECT count(*) AS live FROM claim
        WHERE claim.role_id = role.id
          AND claim.state IN ('active', 'in_session', 'submitted', 'retake')
    ) AS claims ON true
    WHERE live <> CASE role.state WHEN 'held' THEN 1 ELSE 0 END
    UNION ALL
    SELECT format('performer %s has a counter of %s and %s live claims',
                  person_id, live_claims, live)
    FROM performer
    JOIN LATERAL (
        SELECT count(*) AS live FROM claim
        WHERE claim.performer_id = person_id
          AND claim.state IN ('active', 'in_session', 'retake')
    ) AS claims ON true
    WHERE live_claims <> live
    UNION ALL
    SELECT format('role %s is open with %s reserved, its worst case costs %s',
                  role.id, coalesce(balance_minor, 0), needed)
    FROM role
    JOIN job ON job.id = role.job_id
    JOIN LATERAL (
        SELECT cost_minor(
            prep_seconds_cap_ + perform_seconds_cap_ * (1 + retakes_max_),
            rate_minor_per_hour, job.fee_basis_points) AS needed
        FROM (SELECT role.prep_seconds_cap AS prep_seconds_cap_,
                     role.perform_seconds_cap AS perform_seconds_cap_,
                     role.retakes_max AS retakes_max_) AS caps,
             LATERAL (
                 SELECT rate_minor_per_hour FROM rate
                 WHERE rate.lineage_id = job.lineage_id AND effective_from <= marketplace_now()
                 ORDER BY effective_from DESC, number DESC LIMIT 1
             ) AS rate
    ) AS worst ON true
    LEFT JOIN account_balance
        ON account_id = account_id('job_reserve', role.reservation_id, job.currency)
    WHERE role.state = 'open' AND coalesce(balance_minor, 0) < needed
"""

I9 = """
    SELECT format('deposit %s is %s, but its charge is booked %s times', deposit.id, state, booked)
        AS violation
    FROM deposit
    JOIN LATERAL (
        SELECT count(*) AS booked FROM ledger_transaction
        JOIN booked_balance_transaction ON ledger_transaction_id = ledger_transaction.id
        WHERE source_id = deposit.id AND kind = 'deposit_credited'
    ) AS effects ON true
    WHERE booked <> CASE WHEN state IN ('credited', 'available') THEN 1 ELSE 0 END
    UNION ALL
    SELECT format('top-up %s is %s, but it is booked %s times', topup.id, state, booked)
    FROM topup
    JOIN LATERAL (
        SELECT count(*) AS booked FROM ledger_transaction
        JOIN booked_balance_transaction ON ledger_transaction_id = ledger_transaction.id
        WHERE source_id = topup.id AND kind = 'topup_succeeded'
    ) AS effects ON true
    WHERE booked <> CASE WHEN state = 'succeeded' THEN 1 ELSE 0 END
    UNION ALL
    SELECT format('event %s waits since %s: %s', id, received_at, coalesce(last_error, 'not tried'))
    FROM stripe_event
    WHERE handled_at IS NULL AND received_at < marketplace_now() - interval '24 hours'
"""

I11 = """
    WITH move AS (
        SELECT id, subject_type, subject_id, from_state, to_state,
               lag(to_state) OVER subject AS before,
               lead(id) OVER subject IS NULL AS is_last
        FROM audit_event WHERE action = 'moved'
        WINDOW subject AS (PARTITION BY subject_type, subject_id ORDER BY id)
    ), state AS (
        SELECT 'audition' AS subject_type, id, state FROM audition
        UNION ALL SELECT 'claim', id, state FROM claim
        UNION ALL SELECT 'deposit', id, state FROM deposit
        UNION ALL SELECT 'job', id, state FROM job
        UNION ALL SELECT 'payout', id, state FROM payout
        UNION ALL SELECT 'payout_run', id, state FROM payout_run
        UNION ALL SELECT 'performer', person_id, state FROM performer
        UNION ALL SELECT 'recording', id, state FROM recording
        UNION ALL SELECT 'role', id, state FROM role
        UNION ALL SELECT 'submission', id, state FROM submission
        UNION ALL SELECT 'topup', id, state FROM topup
        UNION ALL SELECT 'withholding', id, state FROM withholding
    )
    SELECT format('%s %s moved from %s to %s', subject_type, subject_id,
                  coalesce(from_state, 'nothing'), to_state) AS violation
    FROM move
    WHERE before IS DISTINCT FROM from_state
       OR NOT EXISTS (
           SELECT FROM allowed_move
           WHERE subject = subject_type AND allowed_move.from_state IS NOT DISTINCT FROM move.from_state
             AND allowed_move.to_state = move.to_state
       )
    UNION ALL
    SELECT format('%s %s is %s, but its last recorded move was to %s',
                  state.subject_type, state.id, state.state, coalesce(move.to_state, 'nothing'))
    FROM state
    LEFT JOIN move ON move.subject_type = state.subject_type AND move.subject_id = state.id
        AND is_last
    WHERE move.to_state IS DISTINCT FROM state.state
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
        WHERE account.kind IN ('transfers_in_flight', 'stripe_pending')
        GROUP BY account.kind, booked.source_type, booked.source_id
    ) AS open_source
    WHERE minor <> 0 AND due_at < marketplace_now() - interval '24 hours'
"""

OWED = """
    SELECT account.currency, coalesce(-sum(amount_minor), 0)::bigint AS minor
    FROM account JOIN ledger_entry ON account_id = account.id
    WHERE kind IN ('client_wallet', 'job_reserve', 'performer_payable', 'transfers_in_flight')
    GROUP BY account.currency
"""

PAY_BY = """
    WITH earned AS (
        SELECT claim.id, claim.performer_id, claim.currency, decision.decided_at,
               payout.id AS payout_id, payout.state, payout.state_reason, run.cut_off_at,
               attempt.concluded_at AS paid_at,
               -- Time that two people disagreed about is paid with the run after their word.
               CASE WHEN EXISTS (SELECT FROM withholding WHERE withholding.claim_id = claim.id)
                   THEN greatest(pay_by, next_run_at(decision.decided_at) + interval '48 hours')
                   ELSE pay_by
               END AS pay_by
        FROM claim
        JOIN pay_decision AS decision ON decision.claim_id = claim.id AND decision.pay_minor > 0
        JOIN ledger_entry AS entry ON entry.transaction_id = decision.ledger_transaction_id
        JOIN account ON account.id = entry.account_id AND account.kind = 'performer_payable'
        LEFT JOIN payout_line AS line
            ON line.ledger_entry_id = entry.id AND line.released_at IS NULL
        LEFT JOIN payout ON payout.id = line.payout_id
        LEFT JOIN payout_run AS run ON run.id = payout.run_id
        LEFT JOIN payout_attempt AS attempt
            ON attempt.payout_id = payout.id AND attempt.outcome = 'succeeded'
        WHERE claim.pay_by < marketplace_now()
    )
    SELECT format('claim %s should have been paid by %s: %s', id, pay_by,
                  coalesce('paid ' || paid_at, state, 'in no payout')) AS found,
           -- Nobody can mend it any more: it is counted until the next run, and then only noted.
           coalesce(next_run_at(paid_at) < marketplace_now(), false) AS is_past
    FROM earned
    WHERE pay_by < coalesce(paid_at, marketplace_now())
      -- Stated reasons: the payout's own, or the one given when a run left the performer out.
      AND CASE WHEN paid_at IS NULL THEN state_reason IS NULL ELSE NOT EXISTS (
          SELECT FROM audit_event
          WHERE subject_type = 'payout' AND subject_id = payout_id AND reason IS NOT NULL
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
