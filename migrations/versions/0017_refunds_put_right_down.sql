-- A fee that was booked beside a refund is not forgotten, nor who decided.
DO $$ BEGIN
    IF EXISTS (SELECT FROM refund WHERE fee_minor <> 0 OR decided_by IS NOT NULL)
        OR EXISTS (SELECT FROM withdrawal WHERE decided_by IS NOT NULL) THEN
        RAISE EXCEPTION 'there are fees or decisions in refund or withdrawal: restore a backup';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION check_refund_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    event ledger_transaction%ROWTYPE;
BEGIN
    SELECT * INTO event FROM ledger_transaction WHERE id = NEW.transaction_id;
    IF event.kind NOT LIKE 'refund\_%' THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        WITH said (kind, owner_id, minor) AS (
            SELECT entry.*
            FROM refund, LATERAL (VALUES
                ('client_wallet', client_id, amount_minor, 'refund_sent', sent_transaction_id),
                ('refunds_in_flight', NULL, -amount_minor, 'refund_sent', sent_transaction_id),
                ('refunds_in_flight', NULL, amount_minor, 'refund_confirmed',
                 confirmed_transaction_id),
                ('stripe_available', NULL, -amount_minor, 'refund_confirmed',
                 confirmed_transaction_id),
                ('refunds_in_flight', NULL, amount_minor, 'refund_refused', ended_transaction_id),
                ('client_wallet', client_id, -amount_minor, 'refund_refused', ended_transaction_id),
                ('stripe_available', NULL, amount_minor, 'refund_returned', ended_transaction_id),
                ('client_wallet', client_id, -amount_minor, 'refund_returned', ended_transaction_id)
            ) AS booking (kind, owner_id, minor, event, transaction_id),
            LATERAL (SELECT booking.kind, booking.owner_id, booking.minor) AS entry
            WHERE refund.id = event.source_id AND refund.currency = event.currency
              AND booking.event = event.kind AND booking.transaction_id = event.id
              AND (event.kind NOT IN ('refund_refused', 'refund_returned')
                  OR event.kind = 'refund_' || refund.state)
        ), booked AS (
            SELECT account.kind, account.owner_id, entry.amount_minor
            FROM ledger_entry AS entry JOIN account ON account.id = entry.account_id
            WHERE entry.transaction_id = event.id
        )
        (TABLE said EXCEPT ALL TABLE booked) UNION ALL (TABLE booked EXCEPT ALL TABLE said)
    ) THEN
        RAISE EXCEPTION 'ledger transaction % (%) is not what its source % says',
            event.id, event.kind, event.source_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_refunded';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION check_refund_transactions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM refund
        CROSS JOIN LATERAL (VALUES
            ('refund_sent', sent_transaction_id, false),
            ('refund_confirmed', confirmed_transaction_id, true),
            ('refund_' || state, ended_transaction_id, state = 'returned')
        ) AS named (kind, transaction_id, at_stripe)
        WHERE refund.id = NEW.id AND named.transaction_id IS NOT NULL
          AND NOT EXISTS (
              SELECT FROM ledger_transaction AS event
              WHERE event.id = named.transaction_id AND event.kind = named.kind
                AND event.source_id = refund.id
                AND (NOT at_stripe OR EXISTS (
                    SELECT FROM booked_balance_transaction AS line
                    WHERE line.ledger_transaction_id = event.id))
          )
    ) THEN
        RAISE EXCEPTION 'refund % names a booking that is not its own', NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'refund_booked';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION guard_client_charge() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    paid deposit%ROWTYPE;
BEGIN
    -- Whoever refunds or charges the same deposit waits here; what is read below is what they left.
    SELECT * INTO paid FROM deposit WHERE id = NEW.deposit_id FOR NO KEY UPDATE;
    IF current_setting('transaction_isolation') <> 'read committed'
        OR paid.state NOT IN ('credited', 'available')
        OR NEW.state <> 'rejected'
        AND deposit_gone_minor(paid.id) + NEW.amount_minor > paid.amount_minor THEN
        RAISE EXCEPTION 'of deposit % of % (%) are % gone already',
            paid.id, paid.amount_minor, paid.state, deposit_gone_minor(paid.id)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'charge_within_deposit';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        NEW.decided_at := marketplace_now();
        RETURN NEW;
    END IF;
    IF NEW.dispute_id IS NULL AND paid.foreign_line_id IS NULL
        OR NEW.dispute_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM dispute
            WHERE id = NEW.dispute_id AND deposit_id = NEW.deposit_id AND state = 'open'
              AND outcome IS NOT NULL
        ) THEN
        RAISE EXCEPTION 'the books follow deposit %', paid.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'charge_of_what_is_not_followed';
    END IF;
    NEW.proposed_at := marketplace_now();
    RETURN NEW;
END
$$;

ALTER TABLE refund DROP COLUMN fee_minor, DROP COLUMN decided_by;
ALTER TABLE withdrawal DROP COLUMN decided_by;
