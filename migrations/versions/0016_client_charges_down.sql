-- As it was before clients were charged.
ALTER TABLE ledger_transaction DROP CONSTRAINT ck_ledger_transaction_source_known;
ALTER TABLE ledger_transaction ADD CONSTRAINT ck_ledger_transaction_source_known CHECK ((kind, source_type) IN (('deposit_credited', 'deposit'), ('funds_available', 'deposit'), ('topup_succeeded', 'topup'), ('reserve_changed', 'reserve_move'), ('claim_paid', 'pay_decision'), ('audition_paid', 'audition'), ('transfer_sent', 'payout_attempt'), ('transfer_confirmed', 'payout_attempt'), ('transfer_refused', 'payout_attempt'), ('transfer_reversed', 'transfer_reversal'), ('pay_adjusted', 'correction'), ('overpayment_found', 'correction'), ('receivable_netted', 'correction'), ('receivable_written_off', 'correction'), ('refund_sent', 'refund'), ('refund_confirmed', 'refund'), ('refund_refused', 'refund'), ('refund_returned', 'refund'), ('dispute_opened', 'dispute'), ('dispute_won', 'dispute'), ('dispute_lost', 'dispute'), ('client_debt_settled', 'client_debt_decision'), ('client_debt_written_off', 'client_debt_decision'), ('withdrawal_sent', 'withdrawal'), ('withdrawal_confirmed', 'withdrawal'), ('withdrawal_refused', 'withdrawal'), ('withdrawal_returned', 'withdrawal'), ('stripe_fee_booked', 'line_booking'), ('capital_booked', 'line_booking'))) NOT VALID;
-- Refused by the constraint when something was given back.
ALTER TABLE line_booking DROP CONSTRAINT ck_line_booking_booked_as_known;
ALTER TABLE line_booking ADD CONSTRAINT ck_line_booking_booked_as_known CHECK (booked_as IN ('stripe_fee', 'capital', 'foreign_deposit'));
ALTER TABLE line_booking DROP CONSTRAINT ck_line_booking_of_a_deposit;
ALTER TABLE line_booking ADD CONSTRAINT ck_line_booking_of_a_deposit CHECK ((booked_as = 'foreign_deposit') = (deposit_id IS NOT NULL));
CREATE OR REPLACE FUNCTION guard_refund() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    paid deposit%ROWTYPE;
    gone numeric;
BEGIN
    -- Whoever refunds the same deposit waits here; what is read below is what they left.
    SELECT * INTO paid FROM deposit WHERE id = NEW.deposit_id FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM dispute WHERE client_id = NEW.client_id AND state = 'open') THEN
        RAISE EXCEPTION 'a payment of client % is disputed', NEW.client_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'refund_while_disputed';
    END IF;
    IF client_owes(NEW.client_id, NEW.currency) > 0
        AND NEW.requested_by IS NOT NULL
        AND NOT EXISTS (
            -- Called absent, and there after all.
            SELECT FROM refund WHERE request_id = NEW.request_id AND error_code = 'not_found'
        ) THEN
        RAISE EXCEPTION 'client % owes what a dispute took', NEW.client_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'refund_while_owing';
    END IF;
    SELECT coalesce(sum(minor), 0) INTO gone
    FROM (
        SELECT amount_minor AS minor FROM refund
        WHERE deposit_id = NEW.deposit_id AND state NOT IN ('refused', 'returned')
        UNION ALL
        SELECT withdrawn_minor FROM dispute WHERE deposit_id = NEW.deposit_id AND state = 'lost'
    ) AS given;
    IF current_setting('transaction_isolation') <> 'read committed'
        OR paid.state NOT IN ('credited', 'available')
        OR gone + NEW.amount_minor > paid.amount_minor THEN
        RAISE EXCEPTION 'of deposit % of % (%) are % gone already',
            paid.id, paid.amount_minor, paid.state, gone
            USING ERRCODE = 'check_violation', CONSTRAINT = 'refund_within_deposit';
    END IF;
    NEW.requested_at := marketplace_now();
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION check_dispute_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    event ledger_transaction%ROWTYPE;
BEGIN
    SELECT * INTO event FROM ledger_transaction WHERE id = NEW.transaction_id;
    IF event.source_type NOT IN ('dispute', 'client_debt_decision') THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        WITH said (kind, owner_id, minor) AS (
            SELECT entry.kind, entry.owner_id, entry.minor
            FROM dispute, LATERAL (VALUES
                ('dispute_opened', opened_transaction_id, 'disputes_receivable', NULL::uuid,
                 withdrawn_minor),
                ('dispute_opened', opened_transaction_id, 'dispute_fees', NULL, fee_minor),
                ('dispute_opened', opened_transaction_id, 'stripe_available', NULL,
                 -withdrawn_minor - fee_minor),
                ('dispute_opened', opened_transaction_id, 'client_wallet', client_id, held_minor),
                ('dispute_opened', opened_transaction_id, 'wallet_disputed', client_id, -held_minor),
                ('dispute_won', ended_transaction_id, 'stripe_available', NULL,
                 withdrawn_minor + fee_returned_minor),
                ('dispute_won', ended_transaction_id, 'dispute_fees', NULL, -fee_returned_minor),
                ('dispute_won', ended_transaction_id, 'disputes_receivable', NULL, -withdrawn_minor),
                ('dispute_won', ended_transaction_id, 'wallet_disputed', client_id, held_minor),
                ('dispute_won', ended_transaction_id, 'client_wallet', client_id, -held_minor),
                ('dispute_lost', ended_transaction_id, 'wallet_disputed', client_id, held_minor),
                ('dispute_lost', ended_transaction_id, 'client_wallet', client_id,
                 from_reserves_minor),
                ('dispute_lost', ended_transaction_id, 'client_receivable', client_id,
                 withdrawn_minor - held_minor - from_reserves_minor),
                ('dispute_lost', ended_transaction_id, 'disputes_receivable', NULL, -withdrawn_minor)
            ) AS entry (event, transaction_id, kind, owner_id, minor)
            WHERE dispute.id = event.source_id AND dispute.currency = event.currency
              AND entry.event = event.kind AND entry.transaction_id = event.id
              AND entry.minor <> 0
              AND (event.kind = 'dispute_opened' OR event.kind = 'dispute_' || dispute.state)
            UNION ALL
            SELECT entry.kind, entry.owner_id, entry.minor
            FROM client_debt_decision AS decision, LATERAL (VALUES
                ('client_debt_settled', 'settle', 'client_wallet', client_id, amount_minor),
                ('client_debt_settled', 'settle', 'client_receivable', client_id, -amount_minor),
                ('client_debt_written_off', 'write_off', 'bad_debt', NULL, amount_minor),
                ('client_debt_written_off', 'write_off', 'client_receivable', client_id,
                 -amount_minor)
            ) AS entry (event, remedy, kind, owner_id, minor)
            WHERE decision.id = event.source_id AND decision.currency = event.currency
              AND decision.ledger_transaction_id = event.id
              AND entry.event = event.kind AND entry.remedy = decision.remedy
        ), booked AS (
            SELECT account.kind, account.owner_id, entry.amount_minor
            FROM ledger_entry AS entry JOIN account ON account.id = entry.account_id
            WHERE entry.transaction_id = event.id
        )
        (TABLE said EXCEPT ALL TABLE booked) UNION ALL (TABLE booked EXCEPT ALL TABLE said)
    ) THEN
        RAISE EXCEPTION 'ledger transaction % (%) is not what its source % says',
            event.id, event.kind, event.source_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_disputed';
    END IF;
    IF event.source_type = 'client_debt_decision' AND EXISTS (
        SELECT FROM client_debt_decision
        WHERE id = event.source_id AND client_owes(client_id, currency) < 0
    ) THEN
        RAISE EXCEPTION 'the client of decision % owes less', event.source_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'client_debt_owed';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION check_dispute_transactions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (
            SELECT id AS source_id, named.*
            FROM dispute, LATERAL (VALUES
                ('dispute_opened', opened_transaction_id, true),
                ('dispute_' || state, ended_transaction_id, state = 'won')
            ) AS named (kind, transaction_id, at_stripe)
            WHERE id = NEW.id
            UNION ALL
            SELECT id,
                   CASE remedy WHEN 'settle' THEN 'client_debt_settled'
                       ELSE 'client_debt_written_off' END,
                   ledger_transaction_id, false
            FROM client_debt_decision WHERE id = NEW.id
        ) AS named
        WHERE transaction_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM ledger_transaction AS event
            WHERE event.id = transaction_id AND event.kind = named.kind
              AND event.source_id = named.source_id
              AND (NOT at_stripe OR EXISTS (
                  SELECT FROM booked_balance_transaction AS line
                  WHERE line.ledger_transaction_id = event.id))
        )
    ) THEN
        RAISE EXCEPTION '% % names a booking that is not its own', TG_TABLE_NAME, NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'dispute_booked';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION line_waits_for(line text) RETURNS text LANGUAGE sql STABLE AS $$
    WITH said AS (
        SELECT * FROM stripe_line WHERE id = line
    ), waiting (type, id, booking_id) AS (
        SELECT 'transfer_reversal', reversal.id, reversal.ledger_transaction_id
        FROM said JOIN transfer_reversal AS reversal
            ON reversal.balance_transaction_id = said.id OR reversal.reversal_id = said.source_id
        WHERE (reversal.currency, reversal.amount_minor) = (said.currency, said.net_minor)
          AND reversal.state NOT IN ('refused', 'rejected')
        UNION ALL
        SELECT 'transfer_reversal', reversal.id, NULL
        FROM said JOIN transfer_reversal AS reversal
            ON (reversal.currency, reversal.amount_minor) = (said.currency, said.net_minor)
        WHERE said.type = 'transfer_refund' AND reversal.reversal_id IS NULL
          AND reversal.due_at IS NOT NULL AND reversal.state IN ('sending', 'unknown')
        UNION ALL
        SELECT 'payout', payout.id, attempt.conclusion_transaction_id
        FROM said JOIN payout_attempt AS attempt ON attempt.transfer_id = said.source_id
        JOIN payout ON payout.id = attempt.payout_id
        WHERE said.type = 'transfer'
          AND (payout.currency, -payout.amount_minor) = (said.currency, said.net_minor)
        UNION ALL
        SELECT 'payout', payout.id, NULL
        FROM said JOIN payout
            ON (payout.currency, -payout.amount_minor) = (said.currency, said.net_minor)
        WHERE said.type = 'transfer' AND (
            payout.state IN ('sending', 'unknown')
            -- Found after it was called absent: approved anew, that one is booked.
            OR payout.state IN ('held', 'approved')
            AND strpos(payout.state_reason, said.source_id) > 0)
        UNION ALL
        SELECT 'withdrawal', withdrawal.id, withdrawal.conclusion_transaction_id
        FROM said JOIN withdrawal
            ON (withdrawal.currency, -withdrawal.amount_minor) = (said.currency, said.net_minor)
        WHERE said.type = 'payout' AND (
            withdrawal.state IN ('sending', 'unknown')
            OR withdrawal.stripe_payout_id = said.source_id)
        UNION ALL
        SELECT 'refund', refund.id, NULL
        FROM said JOIN refund ON refund.stripe_refund_id = said.source_id
        WHERE refund.ended_transaction_id IS NULL
          AND (refund.currency, CASE WHEN refund.confirmed_transaction_id IS NULL
              THEN -refund.amount_minor ELSE refund.amount_minor END)
              = (said.currency, said.net_minor)
        UNION ALL
        SELECT 'refund', refund.id, NULL
        FROM said JOIN refund
            ON (refund.currency, -refund.amount_minor) = (said.currency, said.net_minor)
        WHERE said.type IN ('refund', 'payment_refund')
          AND refund.due_at IS NOT NULL AND refund.state IN ('sending', 'unknown')
        UNION ALL
        SELECT 'dispute', dispute.id, NULL
        FROM said JOIN dispute ON dispute.stripe_dispute_id = said.source_id
        WHERE dispute.currency = said.currency AND dispute.state IN ('inquiry', 'open')
          -- What it cannot book itself is a person's to book.
          AND coalesce(dispute.state_reason, '') NOT LIKE 'Finance must look%'
        UNION ALL
        SELECT 'deposit', deposit.id, NULL
        FROM said JOIN deposit
            ON (deposit.currency, deposit.amount_minor) = (said.currency, said.amount_minor)
        WHERE said.type IN ('charge', 'payment')
          -- Two clocks.
          AND deposit.created_at <= said.created_at + interval '5 minutes'
          AND deposit.due_at IS NOT NULL AND deposit.state = 'awaiting_payment'
    )
    SELECT format('%s %s', type, id)
    FROM waiting
    -- What is booked waits for a line only while none is named.
    WHERE booking_id IS NULL OR NOT EXISTS (
        SELECT FROM booked_balance_transaction WHERE ledger_transaction_id = booking_id)
    LIMIT 1
$$;

CREATE OR REPLACE FUNCTION check_line_booking() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    checked uuid := (to_jsonb(NEW) ->> TG_ARGV[0])::uuid;
BEGIN
    IF NOT EXISTS (
        SELECT FROM line_booking AS said
        JOIN ledger_transaction AS booked ON booked.id = said.ledger_transaction_id
        JOIN booked_balance_transaction AS line
            ON line.id = said.line_id AND line.ledger_transaction_id = booked.id
            AND line.net_minor = said.net_minor AND line.currency = said.currency
        WHERE said.id = checked AND said.state = 'booked'
          AND booked.source_id = said.id AND booked.currency = said.currency
          AND booked.kind = CASE said.booked_as
              WHEN 'stripe_fee' THEN 'stripe_fee_booked' ELSE 'capital_booked' END
          AND 2 = (SELECT count(*) FROM ledger_entry WHERE transaction_id = booked.id)
          AND 2 = (
              SELECT count(*) FROM ledger_entry AS entry
              JOIN account ON account.id = entry.account_id
              WHERE entry.transaction_id = booked.id AND (account.kind, entry.amount_minor) IN (
                  ('stripe_available', said.net_minor),
                  (CASE said.booked_as WHEN 'stripe_fee' THEN 'stripe_fees'
                      ELSE 'platform_capital' END, -said.net_minor))
          )
          AND (said.deposit_id IS NULL OR EXISTS (
              SELECT FROM deposit
              JOIN ledger_transaction AS credited
                  ON credited.source_id = deposit.id AND credited.kind = 'deposit_credited'
              WHERE deposit.id = said.deposit_id AND deposit.state = 'credited'
                AND 2 = (
                    SELECT count(*) FROM ledger_entry AS entry
                    JOIN account ON account.id = entry.account_id
                    WHERE entry.transaction_id = credited.id
                      AND (account.kind, account.owner_id, entry.amount_minor)
                          IS NOT DISTINCT FROM ('platform_capital', NULL, deposit.amount_minor)
                       OR entry.transaction_id = credited.id
                      AND (account.kind, account.owner_id, entry.amount_minor)
                          = ('client_wallet', deposit.client_id, -deposit.amount_minor))
          ))
    ) THEN
        RAISE EXCEPTION 'what is booked for % is not what was said of its line', checked
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'line_booking_booked';
    END IF;
    RETURN NULL;
END
$$;

DROP TABLE client_charge;
DROP FUNCTION guard_client_charge(), deposit_gone_minor(uuid);
DELETE FROM allowed_move WHERE subject = 'client_charge';
DROP INDEX ix_stripe_event_object_id;
DROP TRIGGER kept_lines ON dispute;
ALTER TABLE dispute DROP COLUMN outcome, DROP COLUMN outcome_at,
    DROP COLUMN unbookable_line_id, DROP COLUMN unbookable_return_line_id;
