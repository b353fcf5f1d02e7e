"""States moved as their table allows; each event of Stripe's had one effect."""

I9 = """
    SELECT format('deposit %s is %s, but its charge is booked %s times', deposit.id, state, booked)
        AS violation
    FROM deposit
    JOIN LATERAL (
        SELECT count(*) AS booked FROM ledger_transaction
        JOIN booked_balance_transaction ON ledger_transaction_id = ledger_transaction.id
        WHERE source_id = deposit.id AND kind = 'deposit_credited'
    ) AS effects ON true
    WHERE booked <> CASE
        WHEN state IN ('credited', 'available') AND foreign_line_id IS NULL THEN 1 ELSE 0 END
    UNION ALL
    SELECT format('deposit %s is %s, but its line %s is booked for it %s times', deposit.id, state,
                  foreign_line_id, booked)
    FROM deposit
    JOIN LATERAL (
        SELECT count(*) AS booked FROM line_booking AS said
        JOIN booked_balance_transaction AS line ON line.id = said.line_id
            AND line.ledger_transaction_id = said.ledger_transaction_id
        WHERE said.deposit_id = deposit.id AND said.line_id = foreign_line_id
          AND said.booked_as = CASE deposit.state
              WHEN 'credited' THEN 'foreign_deposit' WHEN 'expired' THEN 'given_back'
              ELSE said.booked_as END
    ) AS effects ON true
    WHERE foreign_line_id IS NOT NULL
      AND booked <> CASE WHEN deposit.state IN ('credited', 'expired') THEN 1 ELSE 0 END
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
    SELECT format('withdrawal %s is %s, but Stripe''s lines of it are booked %s times',
                  withdrawal.id, state, booked)
    FROM withdrawal
    JOIN LATERAL (
        SELECT count(*) AS booked FROM booked_balance_transaction
        WHERE ledger_transaction_id IN (conclusion_transaction_id, return_transaction_id)
    ) AS effects ON true
    WHERE booked <> CASE state WHEN 'in_transit' THEN 1 WHEN 'arrived' THEN 1 WHEN 'returned' THEN 2 ELSE 0 END
    UNION ALL
    SELECT format('refund %s is %s, but its lines are booked %s times', refund.id, state, booked)
    FROM refund
    JOIN LATERAL (
        SELECT count(*) AS booked FROM ledger_transaction
        JOIN booked_balance_transaction ON ledger_transaction_id = ledger_transaction.id
        WHERE source_id = refund.id AND kind IN ('refund_confirmed', 'refund_returned')
    ) AS effects ON true
    WHERE booked <> CASE state WHEN 'returned' THEN 2 WHEN 'succeeded' THEN 1
        ELSE num_nonnulls(confirmed_transaction_id) END
    UNION ALL
    SELECT format('line booking %s is %s, but %s is booked as %s', said.id, state, line_id,
                  coalesce(line.ledger_transaction_id::text, 'nothing'))
    FROM line_booking AS said
    LEFT JOIN booked_balance_transaction AS line ON line.id = line_id
    WHERE state = 'booked' AND line.ledger_transaction_id IS DISTINCT FROM said.ledger_transaction_id
    UNION ALL
    SELECT format('dispute %s is %s, but its lines are booked %s times', dispute.id, state, booked)
    FROM dispute
    JOIN LATERAL (
        SELECT count(*) AS booked FROM ledger_transaction
        JOIN booked_balance_transaction ON ledger_transaction_id = ledger_transaction.id
        WHERE source_id = dispute.id AND kind LIKE 'dispute%'
    ) AS effects ON true
    WHERE booked <> CASE state WHEN 'won' THEN 2 WHEN 'lost' THEN 1
        ELSE num_nonnulls(opened_transaction_id) END
    UNION ALL
    SELECT format('reversal %s is %s, but it is booked %s times', reversal.id, state, booked)
    FROM transfer_reversal AS reversal
    JOIN LATERAL (
        SELECT count(*) AS booked FROM ledger_transaction
        JOIN booked_balance_transaction AS line ON line.ledger_transaction_id = ledger_transaction.id
        WHERE source_id = reversal.id AND kind = 'transfer_reversed'
          AND line.id = reversal.balance_transaction_id
    ) AS effects ON true
    -- Stripe need not name its line; then `reconciliation` and I4 do.
    WHERE booked <> CASE WHEN state = 'reversed' AND balance_transaction_id IS NOT NULL
        THEN 1 ELSE 0 END
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
        SELECT 'accounting_period' AS subject_type, id, state FROM accounting_period
        UNION ALL SELECT 'audition', id, state FROM audition
        UNION ALL SELECT 'bank_payout', id, state FROM bank_payout
        UNION ALL SELECT 'claim', id, state FROM claim
        UNION ALL SELECT 'correction', id, state FROM correction
        UNION ALL SELECT 'deposit', id, state FROM deposit
        UNION ALL SELECT 'client_charge', id, state FROM client_charge
        UNION ALL SELECT 'client_debt_decision', id, state FROM client_debt_decision
        UNION ALL SELECT 'dispute', id, state FROM dispute
        UNION ALL SELECT 'job', id, state FROM job
        UNION ALL SELECT 'line_booking', id, state FROM line_booking
        UNION ALL SELECT 'payout', id, state FROM payout
        UNION ALL SELECT 'payout_run', id, state FROM payout_run
        UNION ALL SELECT 'performer', person_id, state FROM performer
        UNION ALL SELECT 'recording', id, state FROM recording
        UNION ALL SELECT 'refund', id, state FROM refund
        UNION ALL SELECT 'role', id, state FROM role
        UNION ALL SELECT 'submission', id, state FROM submission
        UNION ALL SELECT 'topup', id, state FROM topup
        UNION ALL SELECT 'withdrawal', id, state FROM withdrawal
        UNION ALL SELECT 'transfer_reversal', id, state FROM transfer_reversal
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
