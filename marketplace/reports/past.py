"""What a report says of a moment is read off the audit, whose stamps are as safe as the ledger's."""

# Of each payout in a FROM clause: its state at that moment, and the last word on why it waits, which
# is said without a move, too. A payout that was not there yet has no state.
PAYOUT_THEN = """
    JOIN LATERAL (
        SELECT
            (SELECT to_state FROM audit_event
             WHERE subject_type = 'payout' AND subject_id = payout.id
               AND action = 'moved' AND booked_at <= :as_of
             ORDER BY id DESC LIMIT 1) AS state,
            (SELECT reason FROM audit_event
             WHERE subject_type = 'payout' AND subject_id = payout.id
               AND action IN ('moved', 'reason_stated') AND booked_at <= :as_of
             ORDER BY id DESC LIMIT 1) AS reason
    ) AS payout_then ON payout_then.state IS NOT NULL
"""
