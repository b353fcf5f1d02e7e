"""Every cent has its trail: from the event that moved it to the seconds and the rate behind it."""

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
        WHEN 'line_booking' THEN EXISTS (SELECT FROM line_booking
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
        WHEN 'withdrawal' THEN EXISTS (SELECT FROM withdrawal
            WHERE id = source_id AND ledger_transaction.id
                IN (sent_transaction_id, conclusion_transaction_id, return_transaction_id))
        WHEN 'refund' THEN EXISTS (SELECT FROM refund
            WHERE id = source_id AND ledger_transaction.id IN
                (sent_transaction_id, confirmed_transaction_id, ended_transaction_id))
        WHEN 'dispute' THEN EXISTS (SELECT FROM dispute
            WHERE id = source_id
              AND ledger_transaction.id IN (opened_transaction_id, ended_transaction_id))
        WHEN 'client_debt_decision' THEN EXISTS (SELECT FROM client_debt_decision
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
        WHEN 'client_charge' THEN EXISTS (SELECT FROM client_charge
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
        WHEN 'correction' THEN EXISTS (SELECT FROM correction
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
        WHEN 'transfer_reversal' THEN EXISTS (SELECT FROM transfer_reversal
            WHERE id = source_id AND ledger_transaction_id = ledger_transaction.id)
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
    WHERE state IN ('paid', 'partly_reversed', 'reversed') AND NOT EXISTS (
        SELECT FROM payout_attempt
        WHERE payout_id = payout.id AND outcome = 'succeeded'
          AND payout_attempt.transfer_id = payout.transfer_id
          AND conclusion_transaction_id IS NOT NULL
    )
    UNION ALL
    -- Of a deposit never more goes back than came in.
    SELECT format('deposit %s of %s is refunded by %s', deposit.id, deposit.amount_minor,
                  sum(back.amount_minor))
    FROM deposit
    JOIN (
        SELECT deposit_id, client_id, currency, amount_minor FROM refund
        WHERE state NOT IN ('refused', 'returned')
        UNION ALL
        SELECT deposit_id, client_id, currency, amount_minor FROM client_charge
        WHERE state = 'approved'
    ) AS back ON back.deposit_id = deposit.id
    GROUP BY deposit.id
    HAVING sum(back.amount_minor) > deposit.amount_minor
        OR bool_or(back.client_id <> deposit.client_id OR back.currency <> deposit.currency)
    UNION ALL
    SELECT format('client charge %s of dispute %s is %s, but the dispute is %s', charge.id,
                  dispute.id, charge.state, dispute.state)
    FROM dispute
    LEFT JOIN client_charge AS charge
        ON charge.dispute_id = dispute.id AND charge.state = 'approved'
    WHERE CASE WHEN charge.id IS NULL
        THEN dispute.state = 'closed' AND opened_transaction_id IS NOT NULL
        ELSE dispute.state <> 'closed' OR charge.deposit_id <> dispute.deposit_id END
    UNION ALL
    -- What is set aside for disputes is that of the open ones; nobody owes less than nothing.
    SELECT format('client %s has %s set aside for disputes, its open ones %s',
                  account.owner_id, -sum(entry.amount_minor), max(due.minor))
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    JOIN LATERAL (
        SELECT coalesce(sum(held_minor), 0) AS minor FROM dispute
        WHERE client_id = account.owner_id AND currency = account.currency AND state = 'open'
    ) AS due ON true
    WHERE account.kind = 'wallet_disputed'
    GROUP BY account.id HAVING -sum(entry.amount_minor) <> max(due.minor)
    UNION ALL
    SELECT format('client %s owes %s', account.owner_id, sum(entry.amount_minor))
    FROM account JOIN ledger_entry AS entry ON entry.account_id = account.id
    WHERE account.kind = 'client_receivable'
    GROUP BY account.id HAVING sum(entry.amount_minor) < 0
    UNION ALL
    SELECT format('payout %s of %s is %s, but %s of it came back', payout.id, payout.amount_minor,
                  payout.state, returned)
    FROM payout
    JOIN LATERAL (
        SELECT coalesce(sum(amount_minor), 0) AS returned FROM transfer_reversal
        WHERE payout_id = payout.id AND transfer_reversal.state = 'reversed'
    ) AS reversals ON true
    WHERE returned > payout.amount_minor
       OR (CASE WHEN returned = 0 THEN payout.state IN ('partly_reversed', 'reversed')
           ELSE payout.state <> CASE WHEN returned < payout.amount_minor THEN 'partly_reversed'
               ELSE 'reversed' END
       END)
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

# What the database refuses of time, looked at once more: nobody works twice at once, before the claim
# or after its deadline, nor longer than the caps on preparation, the performance and each retake.
I5_TIME = """
    SELECT format('performer %s worked twice at once: time entry %s began at %s, another ended at %s',
                  performer_id, id, started_at, busy_until) AS violation
    FROM (
        SELECT id, performer_id, started_at, ended_at,
               max(coalesce(ended_at, 'infinity')) OVER (
                   PARTITION BY performer_id ORDER BY started_at, ended_at NULLS LAST
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
               ) AS busy_until
        FROM time_entry
    ) AS worked
    WHERE started_at < busy_until AND ended_at IS DISTINCT FROM started_at
    UNION ALL
    SELECT format('time entry %s lasted from %s to %s, its claim %s from %s to %s', entry.id,
                  started_at, ended_at, claim.id, claimed_at, deadline)
    FROM time_entry AS entry
    JOIN claim ON claim.id = claim_id
    WHERE started_at < claimed_at OR ended_at > deadline
    UNION ALL
    SELECT format('claim %s has %s seconds of %s, its cap is %s', claim_id, seconds, what, cap)
    FROM (
        SELECT claim_id, concat_ws(' ', what, retake_number) AS what,
               extract(epoch FROM sum(ended_at - started_at))::bigint AS seconds,
               CASE WHEN what = 'preparation' THEN prep_seconds_cap
                   WHEN retake_number > retakes_max THEN 0
                   ELSE perform_seconds_cap END AS cap
        FROM time_entry
        JOIN claim ON claim.id = claim_id
        JOIN role ON role.id = role_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN activity IN ('brief', 'prep', 'wait') THEN 'preparation'
                ELSE activity END AS what
        ) AS named
        GROUP BY claim_id, what, retake_number, prep_seconds_cap, perform_seconds_cap, retakes_max
    ) AS capped
    WHERE seconds > cap
"""
