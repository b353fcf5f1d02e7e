"""What each event's own row says must be booked, and what is: entry by entry, both ways.

One order of columns for all of them: kind, source's id, currency, account, its owner, amount.
"""

DEPOSITS = """
    SELECT 'deposit_credited', id, currency, entry.*
    FROM deposit, LATERAL (VALUES
        -- Stripe's line of a payment in another currency is the platform's.
        (CASE WHEN foreign_line_id IS NULL THEN 'stripe_pending' ELSE 'platform_capital' END,
         NULL::uuid, amount_minor - coalesce(fee_minor, 0)),
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
"""

TOPUPS = """
    SELECT 'topup_succeeded', id, currency, entry.*
    FROM topup, LATERAL (VALUES
        ('stripe_available', NULL::uuid, amount_minor),
        ('platform_capital', NULL, -amount_minor)
    ) AS entry
    WHERE state = 'succeeded'
"""

RESERVES = """
    SELECT 'reserve_changed', id, currency, entry.*
    FROM reserve_move, LATERAL (VALUES
        (CASE WHEN from_reservation_id IS NULL THEN 'client_wallet' ELSE 'job_reserve' END,
         coalesce(from_reservation_id, client_id), amount_minor),
        (CASE WHEN to_reservation_id IS NULL THEN 'client_wallet' ELSE 'job_reserve' END,
         coalesce(to_reservation_id, client_id), -amount_minor)
    ) AS entry
"""

PAY = """
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
"""

TRANSFERS = """
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
"""

WITHDRAWALS = """
    SELECT kind, withdrawal.id, currency, entry.*
    FROM withdrawal, LATERAL (VALUES
        ('withdrawal_sent', sent_transaction_id IS NOT NULL,
         'platform_capital', 'bank_in_transit'),
        ('withdrawal_confirmed', stripe_payout_id IS NOT NULL,
         'bank_in_transit', 'stripe_available'),
        ('withdrawal_refused', state = 'refused', 'bank_in_transit', 'platform_capital'),
        ('withdrawal_returned', state = 'returned', 'stripe_available', 'platform_capital')
    ) AS event (kind, happened, debited, credited), LATERAL (VALUES
        (debited, NULL::uuid, amount_minor),
        (credited, NULL, -amount_minor)
    ) AS entry
    WHERE happened
"""

REFUNDS = """
    SELECT 'refund_sent', id, currency, entry.*
    FROM refund, LATERAL (VALUES
        ('client_wallet', client_id, amount_minor),
        ('refunds_in_flight', NULL, -amount_minor)
    ) AS entry
    UNION ALL
    SELECT 'refund_confirmed', id, currency, entry.*
    FROM refund, LATERAL (VALUES
        ('refunds_in_flight', NULL::uuid, amount_minor),
        ('stripe_fees', NULL, fee_minor),
        ('stripe_available', NULL, -amount_minor - fee_minor)
    ) AS entry
    WHERE confirmed_transaction_id IS NOT NULL
    UNION ALL
    SELECT 'refund_refused', id, currency, entry.*
    FROM refund, LATERAL (VALUES
        ('refunds_in_flight', NULL::uuid, amount_minor),
        ('client_wallet', client_id, -amount_minor)
    ) AS entry
    WHERE state = 'refused'
    UNION ALL
    -- The inverse of both: out of Stripe's balance no longer, in the wallet again.
    SELECT 'refund_returned', id, currency, entry.*
    FROM refund, LATERAL (VALUES
        ('stripe_available', NULL::uuid, amount_minor),
        ('client_wallet', client_id, -amount_minor)
    ) AS entry
    WHERE state = 'returned'
"""

LINE_BOOKINGS = """
    SELECT CASE booked_as WHEN 'stripe_fee' THEN 'stripe_fee_booked' ELSE 'capital_booked' END,
           id, currency, entry.*
    FROM line_booking, LATERAL (VALUES
        ('stripe_available', NULL::uuid, net_minor),
        (CASE booked_as WHEN 'stripe_fee' THEN 'stripe_fees' ELSE 'platform_capital' END,
         NULL, -net_minor)
    ) AS entry
    WHERE state = 'booked'
"""

DISPUTES = """
    SELECT 'dispute_opened', id, currency, entry.*
    FROM dispute, LATERAL (VALUES
        ('disputes_receivable', NULL::uuid, withdrawn_minor),
        ('dispute_fees', NULL, fee_minor),
        ('stripe_available', NULL, -withdrawn_minor - fee_minor),
        ('client_wallet', client_id, held_minor),
        ('wallet_disputed', client_id, -held_minor)
    ) AS entry
    WHERE opened_transaction_id IS NOT NULL
    UNION ALL
    SELECT 'dispute_won', id, currency, entry.*
    FROM dispute, LATERAL (VALUES
        ('stripe_available', NULL::uuid, withdrawn_minor + fee_returned_minor),
        ('dispute_fees', NULL, -fee_returned_minor),
        ('disputes_receivable', NULL, -withdrawn_minor),
        ('wallet_disputed', client_id, held_minor),
        ('client_wallet', client_id, -held_minor)
    ) AS entry
    WHERE state = 'won'
    UNION ALL
    -- What was set aside, then what open roles gave up by way of the wallet; the rest is owed.
    SELECT 'dispute_lost', id, currency, entry.*
    FROM dispute, LATERAL (VALUES
        ('wallet_disputed', client_id, held_minor),
        ('client_wallet', client_id, from_reserves_minor),
        ('client_receivable', client_id, withdrawn_minor - held_minor - from_reserves_minor),
        ('disputes_receivable', NULL::uuid, -withdrawn_minor)
    ) AS entry
    WHERE state = 'lost'
    UNION ALL
    SELECT CASE remedy WHEN 'settle' THEN 'client_debt_settled' ELSE 'client_debt_written_off' END,
           id, currency, entry.*
    FROM client_debt_decision, LATERAL (VALUES
        (CASE remedy WHEN 'settle' THEN 'client_wallet' ELSE 'bad_debt' END,
         CASE remedy WHEN 'settle' THEN client_id END, amount_minor),
        ('client_receivable', client_id, -amount_minor)
    ) AS entry
    WHERE state = 'confirmed'
"""

CHARGES = """
    SELECT 'client_charged', charge.id, charge.currency, entry.*
    FROM client_charge AS charge LEFT JOIN dispute ON dispute.id = dispute_id,
    LATERAL (VALUES
        -- What the dispute had set aside is in the wallet again, and then charged out of it.
        ('client_wallet', charge.client_id, from_wallet_minor - coalesce(held_minor, 0)),
        ('wallet_disputed', charge.client_id, coalesce(held_minor, 0)),
        ('client_receivable', charge.client_id, charge.amount_minor - from_wallet_minor),
        -- What Stripe took and is not charged, the platform bears.
        ('disputes_receivable', NULL::uuid, -coalesce(withdrawn_minor, 0)),
        ('platform_capital', NULL, coalesce(withdrawn_minor, 0) - charge.amount_minor)
    ) AS entry
    WHERE charge.state = 'approved'
"""

REVERSALS = """
    SELECT 'transfer_reversed', reversal.id, reversal.currency, entry.*
    FROM transfer_reversal AS reversal
    LEFT JOIN payout ON payout.id = payout_id, LATERAL (VALUES
        ('stripe_available', NULL::uuid, reversal.amount_minor),
        -- Owed again, or a debt that is paid: nothing else is ever taken back.
        (CASE cause WHEN 'wrong_destination' THEN 'performer_payable'
            ELSE 'performer_receivable' END, performer_id, -reversal.amount_minor)
    ) AS entry
    WHERE reversal.state = 'reversed'
"""

CORRECTIONS = """
    SELECT event.kind, correction.id, correction.currency, entry.*
    FROM correction
    LEFT JOIN claim ON claim.id = claim_id,
    LATERAL (
        SELECT CASE WHEN correction.kind IN ('receivable_netted', 'receivable_written_off')
            THEN correction.kind
            WHEN client_minor + platform_minor < 0 THEN 'overpayment_found'
            ELSE 'pay_adjusted' END AS kind
    ) AS event,
    LATERAL (VALUES
        ('performer_payable', correction.performer_id,
         CASE event.kind WHEN 'pay_adjusted' THEN -amount_minor
             WHEN 'receivable_netted' THEN amount_minor ELSE 0 END),
        ('performer_receivable', correction.performer_id,
         CASE event.kind WHEN 'pay_adjusted' THEN 0
             WHEN 'overpayment_found' THEN amount_minor ELSE -amount_minor END),
        ('bad_debt', NULL,
         CASE event.kind WHEN 'receivable_written_off' THEN amount_minor ELSE 0 END),
        ('platform_expense', NULL, platform_minor),
        ('platform_fees', NULL, -correction.fee_minor),
        (CASE WHEN correction.reservation_id IS NULL THEN 'client_wallet' ELSE 'job_reserve' END,
         coalesce(correction.reservation_id, claim.client_id), client_minor + correction.fee_minor)
    ) AS entry
    WHERE correction.state = 'approved'
"""

EVENTS = (
    DEPOSITS,
    TOPUPS,
    RESERVES,
    PAY,
    TRANSFERS,
    WITHDRAWALS,
    LINE_BOOKINGS,
    REFUNDS,
    DISPUTES,
    CHARGES,
    REVERSALS,
    CORRECTIONS,
)

SAID = (
    f"said (kind, source_id, currency, account, owner_id, minor) AS ({' UNION ALL '.join(EVENTS)})"
)

I5_ENTRIES = f"""
    WITH {SAID}, compared AS (
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
"""  # noqa: S608 - this module's words
