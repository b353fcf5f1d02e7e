-- What our books cannot follow by themselves of a deposit: two people charge its client for it.

ALTER TABLE ledger_transaction DROP CONSTRAINT ck_ledger_transaction_source_known;
ALTER TABLE ledger_transaction ADD CONSTRAINT ck_ledger_transaction_source_known CHECK ((kind, source_type) IN (('deposit_credited', 'deposit'), ('funds_available', 'deposit'), ('topup_succeeded', 'topup'), ('reserve_changed', 'reserve_move'), ('claim_paid', 'pay_decision'), ('audition_paid', 'audition'), ('transfer_sent', 'payout_attempt'), ('transfer_confirmed', 'payout_attempt'), ('transfer_refused', 'payout_attempt'), ('transfer_reversed', 'transfer_reversal'), ('pay_adjusted', 'correction'), ('overpayment_found', 'correction'), ('receivable_netted', 'correction'), ('receivable_written_off', 'correction'), ('refund_sent', 'refund'), ('refund_confirmed', 'refund'), ('refund_refused', 'refund'), ('refund_returned', 'refund'), ('dispute_opened', 'dispute'), ('dispute_won', 'dispute'), ('dispute_lost', 'dispute'), ('client_debt_settled', 'client_debt_decision'), ('client_debt_written_off', 'client_debt_decision'), ('client_charged', 'client_charge'), ('withdrawal_sent', 'withdrawal'), ('withdrawal_confirmed', 'withdrawal'), ('withdrawal_refused', 'withdrawal'), ('withdrawal_returned', 'withdrawal'), ('stripe_fee_booked', 'line_booking'), ('capital_booked', 'line_booking'))) NOT VALID;

-- A client's payment that was given back at Stripe before it was credited here.
ALTER TABLE line_booking DROP CONSTRAINT ck_line_booking_booked_as_known;
ALTER TABLE line_booking ADD CONSTRAINT ck_line_booking_booked_as_known CHECK (booked_as IN ('stripe_fee', 'capital', 'foreign_deposit', 'given_back')) NOT VALID;
ALTER TABLE line_booking DROP CONSTRAINT ck_line_booking_of_a_deposit;
ALTER TABLE line_booking ADD CONSTRAINT ck_line_booking_of_a_deposit CHECK ((booked_as IN ('foreign_deposit', 'given_back')) = (deposit_id IS NOT NULL)) NOT VALID;

ALTER TABLE dispute ADD COLUMN outcome text;
ALTER TABLE dispute ADD COLUMN outcome_at timestamptz;
ALTER TABLE dispute ADD COLUMN unbookable_line_id text;
ALTER TABLE dispute ADD COLUMN unbookable_return_line_id text;
ALTER TABLE dispute ADD CONSTRAINT ck_dispute_outcome_known CHECK (outcome IN ('won', 'lost', 'prevented')) NOT VALID;
ALTER TABLE dispute ADD CONSTRAINT ck_dispute_outcome_told CHECK ((outcome IS NULL) = (outcome_at IS NULL)) NOT VALID;
CREATE TRIGGER kept_lines BEFORE UPDATE ON dispute FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('unbookable_line_id', 'unbookable_return_line_id');

CREATE INDEX ix_stripe_event_object_id ON stripe_event (object_id);

CREATE TABLE client_charge (
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    deposit_id uuid NOT NULL,
    dispute_id uuid,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    state_reason text,
    proposed_by uuid NOT NULL,
    proposed_at timestamptz DEFAULT marketplace_now() NOT NULL,
    decided_by uuid,
    decided_at timestamptz,
    from_wallet_minor bigint,
    ledger_transaction_id uuid,
    CONSTRAINT pk_client_charge PRIMARY KEY (id),
    CONSTRAINT uq_client_charge_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT ck_client_charge_of_something CHECK (amount_minor > 0 OR amount_minor = 0 AND dispute_id IS NOT NULL),
    CONSTRAINT ck_client_charge_second_person CHECK (decided_by <> proposed_by),
    CONSTRAINT ck_client_charge_decided_by_somebody CHECK ((state = 'proposed') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)),
    CONSTRAINT ck_client_charge_out_of CHECK ((state = 'approved') = (from_wallet_minor IS NOT NULL) AND from_wallet_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT ck_client_charge_booked CHECK (CASE WHEN state = 'approved' THEN amount_minor = 0 OR ledger_transaction_id IS NOT NULL ELSE ledger_transaction_id IS NULL END),
    CONSTRAINT fk_client_charge_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_client_charge_deposit FOREIGN KEY(deposit_id, client_id, currency) REFERENCES deposit (id, client_id, currency),
    CONSTRAINT fk_client_charge_dispute_id FOREIGN KEY(dispute_id) REFERENCES dispute (id),
    CONSTRAINT fk_client_charge_proposed_by FOREIGN KEY(proposed_by) REFERENCES person (id),
    CONSTRAINT fk_client_charge_decided_by FOREIGN KEY(decided_by) REFERENCES person (id),
    CONSTRAINT fk_client_charge_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_client_charge_client_id ON client_charge (client_id, id);
CREATE INDEX ix_client_charge_deposit_id ON client_charge (deposit_id);
CREATE UNIQUE INDEX uq_client_charge_dispute ON client_charge (dispute_id) WHERE state <> 'rejected';

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('client_charge', NULL, 'proposed'),
    ('client_charge', 'proposed', 'approved'),
    ('client_charge', 'proposed', 'rejected');

CREATE TRIGGER born AFTER INSERT ON client_charge FOR EACH ROW EXECUTE FUNCTION record_move('id');
CREATE TRIGGER moved AFTER UPDATE OF state ON client_charge FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_move('id');
CREATE TRIGGER final BEFORE UPDATE ON client_charge
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('decided_by');
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON client_charge
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What of a deposit is its client's no longer.
CREATE FUNCTION deposit_gone_minor(deposit uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(minor), 0)::bigint
    FROM (
        SELECT amount_minor AS minor FROM refund
        WHERE deposit_id = deposit AND state NOT IN ('refused', 'returned')
        UNION ALL
        SELECT withdrawn_minor FROM dispute WHERE deposit_id = deposit AND state = 'lost'
        UNION ALL
        SELECT amount_minor FROM client_charge WHERE deposit_id = deposit AND state = 'approved'
    ) AS gone
$$;

-- Of a deposit never more is charged than came in, and nothing for what the books follow by
-- themselves: a deposit with its own line, a dispute that has not ended at Stripe or has ended here.
CREATE FUNCTION guard_client_charge() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OF state ON client_charge
    FOR EACH ROW EXECUTE FUNCTION guard_client_charge();

-- As before, and less what was charged.
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
    gone := deposit_gone_minor(NEW.deposit_id);
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

-- As before, and for what clients are charged.
CREATE OR REPLACE FUNCTION check_dispute_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    event ledger_transaction%ROWTYPE;
BEGIN
    SELECT * INTO event FROM ledger_transaction WHERE id = NEW.transaction_id;
    IF event.source_type NOT IN ('dispute', 'client_debt_decision', 'client_charge') THEN
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
            UNION ALL
            -- What its dispute had set aside is in the wallet again, and what Stripe took for it
            -- is the platform's, which has what is charged.
            SELECT entry.kind, entry.owner_id, entry.minor
            FROM client_charge AS charge LEFT JOIN dispute ON dispute.id = charge.dispute_id,
            LATERAL (VALUES
                ('client_wallet', charge.client_id, from_wallet_minor - coalesce(held_minor, 0)),
                ('wallet_disputed', charge.client_id, coalesce(held_minor, 0)),
                ('client_receivable', charge.client_id, charge.amount_minor - from_wallet_minor),
                ('disputes_receivable', NULL, -coalesce(withdrawn_minor, 0)),
                ('platform_capital', NULL, coalesce(withdrawn_minor, 0) - charge.amount_minor)
            ) AS entry (kind, owner_id, minor)
            WHERE charge.id = event.source_id AND charge.currency = event.currency
              AND charge.ledger_transaction_id = event.id AND entry.minor <> 0
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
            UNION ALL
            SELECT id, 'client_charged', ledger_transaction_id, false
            FROM client_charge WHERE id = NEW.id
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
    -- What was booked at a dispute's opening ends with it, and what is charged for has ended.
    IF EXISTS (
        SELECT FROM dispute
        LEFT JOIN client_charge AS charge
            ON charge.dispute_id = dispute.id AND charge.state = 'approved'
        WHERE dispute.id = (to_jsonb(NEW) ->> CASE TG_TABLE_NAME
                WHEN 'dispute' THEN 'id' ELSE 'dispute_id' END)::uuid
          AND CASE WHEN charge.id IS NULL
              THEN dispute.state = 'closed' AND opened_transaction_id IS NOT NULL
              ELSE dispute.state <> 'closed'
                  OR opened_transaction_id IS NOT NULL AND charge.ledger_transaction_id IS NULL
              END
    ) THEN
        RAISE EXCEPTION '% % does not end its dispute', TG_TABLE_NAME, NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'dispute_ends';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER booked AFTER INSERT OR UPDATE ON client_charge
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_dispute_transactions();

-- As before; what cannot be booked stands in columns, and every such payment has its line.
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
          AND num_nonnulls(dispute.unbookable_line_id, dispute.unbookable_return_line_id) = 0
        UNION ALL
        SELECT 'deposit', deposit.id, NULL
        FROM said JOIN deposit
            ON (deposit.currency, deposit.amount_minor) = (said.currency, said.amount_minor)
        WHERE said.type IN ('charge', 'payment')
          -- Two clocks.
          AND deposit.created_at <= said.created_at + interval '5 minutes'
          AND deposit.due_at IS NOT NULL AND deposit.state = 'awaiting_payment'
          -- Each has its line: what that is, is said by a person.
          AND deposit.foreign_line_id IS NULL
          AND NOT EXISTS (SELECT FROM deposit AS other WHERE other.foreign_line_id = said.id)
    )
    SELECT format('%s %s', type, id)
    FROM waiting
    -- What is booked waits for a line only while none is named.
    WHERE booking_id IS NULL OR NOT EXISTS (
        SELECT FROM booked_balance_transaction WHERE ledger_transaction_id = booking_id)
    LIMIT 1
$$;

-- As before, and for what was given back.
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
          AND (said.booked_as <> 'given_back' OR EXISTS (
              SELECT FROM deposit WHERE id = said.deposit_id AND state = 'expired'))
          AND (said.booked_as <> 'foreign_deposit' OR EXISTS (
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

-- What stood in prose until now.
UPDATE dispute SET unbookable_line_id = substring(state_reason FROM ' by (\S+)\.$')
WHERE state = 'open' AND state_reason LIKE 'Finance must look: Stripe took it by %';
UPDATE dispute SET unbookable_return_line_id = substring(state_reason FROM ' by (\S+)\.$')
WHERE state = 'open' AND state_reason LIKE 'Finance must look: Stripe gave it back by %';
-- The payments behind deposits that were settled in another currency.
UPDATE deposit SET payment_intent_id = event.payload #>> '{data,object,payment_intent}'
FROM stripe_event AS event
WHERE deposit.foreign_line_id IS NOT NULL AND deposit.payment_intent_id IS NULL
  AND event.object_id = deposit.checkout_session_id
  AND event.type = 'checkout.session.completed';
-- The deferred guards look now: a table with some of them pending is not changed by what follows.
SET CONSTRAINTS ALL IMMEDIATE;
SET CONSTRAINTS ALL DEFERRED;
