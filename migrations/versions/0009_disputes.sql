-- Disputes of deposits, and what clients owe after lost ones.

ALTER TABLE ledger_transaction DROP CONSTRAINT ck_ledger_transaction_source_known;
ALTER TABLE ledger_transaction ADD CONSTRAINT ck_ledger_transaction_source_known CHECK ((kind, source_type) IN (('deposit_credited', 'deposit'), ('funds_available', 'deposit'), ('topup_succeeded', 'topup'), ('reserve_changed', 'reserve_move'), ('claim_paid', 'pay_decision'), ('audition_paid', 'audition'), ('transfer_sent', 'payout_attempt'), ('transfer_confirmed', 'payout_attempt'), ('transfer_refused', 'payout_attempt'), ('transfer_reversed', 'transfer_reversal'), ('pay_adjusted', 'correction'), ('overpayment_found', 'correction'), ('receivable_netted', 'correction'), ('receivable_written_off', 'correction'), ('refund_sent', 'refund'), ('refund_confirmed', 'refund'), ('refund_refused', 'refund'), ('refund_returned', 'refund'), ('dispute_opened', 'dispute'), ('dispute_won', 'dispute'), ('dispute_lost', 'dispute'), ('client_debt_settled', 'client_debt_decision'), ('client_debt_written_off', 'client_debt_decision'), ('withdrawal_sent', 'withdrawal'), ('withdrawal_confirmed', 'withdrawal'), ('withdrawal_refused', 'withdrawal'), ('withdrawal_returned', 'withdrawal'), ('stripe_fee_booked', 'line_booking'), ('capital_booked', 'line_booking'))) NOT VALID;

-- Refunds that were made by hand at Stripe: nobody here asked for them.
ALTER TABLE refund ALTER COLUMN requested_by DROP NOT NULL;

CREATE TABLE dispute (
    id uuid NOT NULL,
    stripe_dispute_id text NOT NULL,
    client_id uuid NOT NULL,
    deposit_id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    reason text NOT NULL,
    opened_at timestamptz NOT NULL,
    answer_by timestamptz,
    state text NOT NULL,
    state_reason text,
    due_at timestamptz,
    noted_at timestamptz DEFAULT marketplace_now() NOT NULL,
    opened_transaction_id uuid,
    withdrawn_minor bigint,
    fee_minor bigint,
    held_minor bigint,
    ended_transaction_id uuid,
    fee_returned_minor bigint,
    from_reserves_minor bigint,
    CONSTRAINT pk_dispute PRIMARY KEY (id),
    CONSTRAINT uq_dispute_stripe_dispute_id UNIQUE (stripe_dispute_id),
    CONSTRAINT uq_dispute_opened_transaction_id UNIQUE (opened_transaction_id),
    CONSTRAINT uq_dispute_ended_transaction_id UNIQUE (ended_transaction_id),
    CONSTRAINT ck_dispute_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_dispute_opened_whole CHECK (num_nonnulls(opened_transaction_id, withdrawn_minor, fee_minor, held_minor) IN (0, 4)),
    CONSTRAINT ck_dispute_held_of_it CHECK (withdrawn_minor > 0 AND held_minor BETWEEN 0 AND withdrawn_minor),
    CONSTRAINT ck_dispute_ended_booked CHECK ((state IN ('won', 'lost')) = (ended_transaction_id IS NOT NULL)),
    CONSTRAINT ck_dispute_opened_before CHECK (ended_transaction_id IS NULL OR opened_transaction_id IS NOT NULL),
    CONSTRAINT ck_dispute_lost_out_of CHECK ((state = 'lost') = (from_reserves_minor IS NOT NULL)),
    CONSTRAINT ck_dispute_reserves_of_it CHECK (from_reserves_minor BETWEEN 0 AND withdrawn_minor - held_minor),
    CONSTRAINT ck_dispute_won_with_fee CHECK ((state = 'won') = (fee_returned_minor IS NOT NULL)),
    CONSTRAINT fk_dispute_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_dispute_deposit FOREIGN KEY(deposit_id, client_id, currency) REFERENCES deposit (id, client_id, currency),
    CONSTRAINT fk_dispute_opened_transaction_id FOREIGN KEY(opened_transaction_id) REFERENCES ledger_transaction (id),
    CONSTRAINT fk_dispute_ended_transaction_id FOREIGN KEY(ended_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_dispute_client_id ON dispute (client_id, id);
CREATE INDEX ix_dispute_deposit_id ON dispute (deposit_id);
CREATE INDEX ix_dispute_open ON dispute (client_id) WHERE state = 'open';
CREATE INDEX ix_dispute_due_at ON dispute (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE client_debt_decision (
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    remedy text NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    state_reason text,
    proposed_by uuid NOT NULL,
    proposed_at timestamptz DEFAULT marketplace_now() NOT NULL,
    decided_by uuid,
    decided_at timestamptz,
    ledger_transaction_id uuid,
    CONSTRAINT pk_client_debt_decision PRIMARY KEY (id),
    CONSTRAINT uq_client_debt_decision_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT ck_client_debt_decision_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_client_debt_decision_second_person CHECK (decided_by <> proposed_by),
    CONSTRAINT ck_client_debt_decision_decided_by_somebody CHECK ((state = 'proposed') = (decided_by IS NULL)),
    CONSTRAINT ck_client_debt_decision_confirmed_booked CHECK ((state = 'confirmed') = (ledger_transaction_id IS NOT NULL)),
    CONSTRAINT ck_client_debt_decision_remedy_known CHECK (remedy IN ('settle', 'write_off')),
    CONSTRAINT fk_client_debt_decision_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_client_debt_decision_proposed_by FOREIGN KEY(proposed_by) REFERENCES person (id),
    CONSTRAINT fk_client_debt_decision_decided_by FOREIGN KEY(decided_by) REFERENCES person (id),
    CONSTRAINT fk_client_debt_decision_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_client_debt_decision_client_id ON client_debt_decision (client_id, id);

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('dispute', NULL, 'inquiry'),
    ('dispute', NULL, 'open'),
    ('dispute', 'inquiry', 'closed'),
    ('dispute', 'inquiry', 'open'),
    ('dispute', 'open', 'closed'),
    ('dispute', 'open', 'lost'),
    ('dispute', 'open', 'won'),
    ('client_debt_decision', NULL, 'proposed'),
    ('client_debt_decision', 'proposed', 'confirmed'),
    ('client_debt_decision', 'proposed', 'rejected');

DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['dispute', 'client_debt_decision'] LOOP
        EXECUTE format('CREATE TRIGGER born AFTER INSERT ON %I FOR EACH ROW'
            ' EXECUTE FUNCTION record_move(''id'')', name);
        EXECUTE format('CREATE TRIGGER moved AFTER UPDATE OF state ON %I FOR EACH ROW'
            ' WHEN (OLD.state IS DISTINCT FROM NEW.state)'
            ' EXECUTE FUNCTION record_move(''id'')', name);
    END LOOP;
END
$do$;
CREATE TRIGGER final BEFORE UPDATE ON dispute
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('ended_transaction_id');
CREATE TRIGGER kept BEFORE UPDATE ON dispute FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('opened_transaction_id', 'withdrawn_minor', 'fee_minor', 'held_minor');
CREATE TRIGGER final BEFORE UPDATE ON client_debt_decision
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('decided_by');

-- A dispute is of a payment that came in; one that is noted and a refund that is asked for of the same
-- deposit take turns.
CREATE FUNCTION guard_dispute() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM deposit WHERE id = NEW.deposit_id FOR NO KEY UPDATE;
    IF NOT EXISTS (
        SELECT FROM deposit WHERE id = NEW.deposit_id AND state IN ('credited', 'available')
    ) THEN
        RAISE EXCEPTION 'deposit % was never paid', NEW.deposit_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'dispute_of_a_payment';
    END IF;
    NEW.noted_at := marketplace_now();
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT ON dispute FOR EACH ROW EXECUTE FUNCTION guard_dispute();

-- Of a deposit never more goes back than came in, and nothing while a bank takes back what the
-- client paid, nor while the client owes what a bank took. A refund that was found at Stripe is
-- booked all the same: that money is gone.
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

CREATE FUNCTION client_owes(client uuid, in_currency text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(amount_minor), 0)::bigint FROM ledger_entry
    WHERE account_id = account_id('client_receivable', client, in_currency)
$$;

-- What a client owes is decided about by one after the other; check_dispute_entries refuses to book
-- more than is owed.
CREATE FUNCTION guard_debt_decision() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM client WHERE id = NEW.client_id FOR NO KEY UPDATE;
    IF TG_OP = 'UPDATE' THEN
        NEW.decided_at := marketplace_now();
    ELSE
        NEW.proposed_at := marketplace_now();
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OF state ON client_debt_decision
    FOR EACH ROW EXECUTE FUNCTION guard_debt_decision();

-- What the ledger has of a dispute, and of a debt after it, is what its row says, and the row names
-- it. Checked from both tables.
CREATE FUNCTION check_dispute_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
CREATE CONSTRAINT TRIGGER disputed AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_dispute_entries();

CREATE FUNCTION check_dispute_transactions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
CREATE CONSTRAINT TRIGGER booked AFTER INSERT OR UPDATE ON dispute
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_dispute_transactions();
CREATE CONSTRAINT TRIGGER booked AFTER INSERT OR UPDATE ON client_debt_decision
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_dispute_transactions();
