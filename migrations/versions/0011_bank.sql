-- The way to the bank: withdrawals of the platform, bank payouts of connected accounts.

CREATE TABLE withdrawal (
    id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    reason text NOT NULL,
    requested_by uuid NOT NULL,
    requested_at timestamptz DEFAULT marketplace_now() NOT NULL,
    approved_by uuid,
    approved_at timestamptz,
    state text NOT NULL,
    state_reason text,
    due_at timestamptz,
    tries integer DEFAULT 0 NOT NULL,
    sent_at timestamptz,
    not_found_at timestamptz,
    stripe_payout_id text,
    stripe_request_id text,
    error_code text,
    arrives_at timestamptz,
    sent_transaction_id uuid,
    conclusion_transaction_id uuid,
    return_transaction_id uuid,
    CONSTRAINT pk_withdrawal PRIMARY KEY (id),
    CONSTRAINT ck_withdrawal_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_withdrawal_second_person CHECK (approved_by <> requested_by),
    CONSTRAINT ck_withdrawal_approved_by_somebody CHECK ((approved_by IS NULL) = (approved_at IS NULL) AND (state <> 'requested' OR approved_by IS NULL) AND (state IN ('requested', 'discarded') OR approved_by IS NOT NULL)),
    CONSTRAINT ck_withdrawal_sent_as_booked CHECK ((state IN ('requested', 'approved', 'discarded')) = (sent_at IS NULL) AND (sent_at IS NULL) = (sent_transaction_id IS NULL)),
    CONSTRAINT ck_withdrawal_concluded_as_booked CHECK ((state IN ('in_transit', 'arrived', 'refused', 'returned')) = (conclusion_transaction_id IS NOT NULL) AND (state IN ('in_transit', 'arrived', 'returned')) = (stripe_payout_id IS NOT NULL)),
    CONSTRAINT ck_withdrawal_returned_as_booked CHECK ((state = 'returned') = (return_transaction_id IS NOT NULL)),
    CONSTRAINT uq_withdrawal_stripe_payout_id UNIQUE (stripe_payout_id),
    CONSTRAINT uq_withdrawal_sent_transaction_id UNIQUE (sent_transaction_id),
    CONSTRAINT uq_withdrawal_conclusion_transaction_id UNIQUE (conclusion_transaction_id),
    CONSTRAINT uq_withdrawal_return_transaction_id UNIQUE (return_transaction_id),
    CONSTRAINT fk_withdrawal_requested_by FOREIGN KEY(requested_by) REFERENCES person (id),
    CONSTRAINT fk_withdrawal_approved_by FOREIGN KEY(approved_by) REFERENCES person (id),
    CONSTRAINT fk_withdrawal_sent_transaction_id FOREIGN KEY(sent_transaction_id) REFERENCES ledger_transaction (id),
    CONSTRAINT fk_withdrawal_conclusion_transaction_id FOREIGN KEY(conclusion_transaction_id) REFERENCES ledger_transaction (id),
    CONSTRAINT fk_withdrawal_return_transaction_id FOREIGN KEY(return_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_withdrawal_due_at ON withdrawal (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE bank_payout (
    id uuid NOT NULL,
    stripe_payout_id text NOT NULL,
    performer_id uuid NOT NULL,
    stripe_account_id text NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    automatic boolean NOT NULL,
    state text NOT NULL,
    state_reason text,
    failure_code text,
    arrives_at timestamptz NOT NULL,
    made_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    CONSTRAINT pk_bank_payout PRIMARY KEY (id),
    CONSTRAINT ck_bank_payout_positive CHECK (amount_minor > 0),
    CONSTRAINT uq_bank_payout_stripe_payout_id UNIQUE (stripe_payout_id),
    CONSTRAINT fk_bank_payout_performer_id FOREIGN KEY(performer_id) REFERENCES payout_account (performer_id)
);
CREATE INDEX ix_bank_payout_performer_id ON bank_payout (performer_id, id);
CREATE INDEX ix_bank_payout_state ON bank_payout (state, id);

-- When the poller looks next for payouts of the account to its bank. A constant beginning writes no
-- row anew; the rows of the older version get theirs at once.
ALTER TABLE payout_account ADD COLUMN bank_due_at timestamptz DEFAULT '2000-01-01T00:00:00Z' NOT NULL;
ALTER TABLE payout_account ALTER COLUMN bank_due_at SET DEFAULT marketplace_now();
CREATE INDEX ix_payout_account_bank_due_at ON payout_account (bank_due_at)
    WHERE stripe_account_id IS NOT NULL;

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('withdrawal', NULL, 'requested'),
    ('withdrawal', 'requested', 'approved'),
    ('withdrawal', 'requested', 'discarded'),
    ('withdrawal', 'approved', 'sending'),
    ('withdrawal', 'approved', 'discarded'),
    ('withdrawal', 'sending', 'in_transit'),
    ('withdrawal', 'sending', 'refused'),
    ('withdrawal', 'sending', 'unknown'),
    ('withdrawal', 'unknown', 'in_transit'),
    ('withdrawal', 'unknown', 'refused'),
    ('withdrawal', 'in_transit', 'arrived'),
    ('withdrawal', 'in_transit', 'returned'),
    ('withdrawal', 'arrived', 'returned'),
    ('bank_payout', NULL, 'pending'),
    ('bank_payout', NULL, 'in_transit'),
    ('bank_payout', NULL, 'paid'),
    ('bank_payout', NULL, 'failed'),
    ('bank_payout', NULL, 'canceled'),
    ('bank_payout', 'pending', 'in_transit'),
    ('bank_payout', 'pending', 'paid'),
    ('bank_payout', 'pending', 'failed'),
    ('bank_payout', 'pending', 'canceled'),
    ('bank_payout', 'in_transit', 'paid'),
    ('bank_payout', 'in_transit', 'failed'),
    ('bank_payout', 'in_transit', 'canceled'),
    ('bank_payout', 'paid', 'failed');

DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['withdrawal', 'bank_payout'] LOOP
        EXECUTE format('CREATE TRIGGER born AFTER INSERT ON %I FOR EACH ROW'
            ' EXECUTE FUNCTION record_move(''id'')', name);
        EXECUTE format('CREATE TRIGGER moved AFTER UPDATE OF state ON %I FOR EACH ROW'
            ' WHEN (OLD.state IS DISTINCT FROM NEW.state)'
            ' EXECUTE FUNCTION record_move(''id'')', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    END LOOP;
END
$do$;

CREATE TRIGGER explained AFTER UPDATE OF state_reason ON withdrawal FOR EACH ROW
    WHEN (OLD.state = NEW.state AND NEW.state_reason IS NOT NULL
        AND OLD.state_reason IS DISTINCT FROM NEW.state_reason)
    EXECUTE FUNCTION record_reason();
CREATE TRIGGER kept BEFORE UPDATE ON withdrawal FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('approved_by', 'approved_at', 'sent_at', 'stripe_payout_id',
        'sent_transaction_id', 'conclusion_transaction_id', 'return_transaction_id');

-- What is at Stripe by the ledger beyond all that is owed to others, or on its way to somebody.
CREATE FUNCTION withdrawable_minor(wanted text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(minor), 0)::bigint
    FROM (
        SELECT account.kind, sum(entry.amount_minor) AS minor
        FROM public.ledger_entry AS entry
        JOIN public.account ON account.id = entry.account_id
        WHERE account.currency = wanted AND account.kind IN (
            'stripe_pending', 'stripe_available',
            'client_wallet', 'wallet_disputed', 'job_reserve', 'performer_payable',
            'transfers_in_flight', 'refunds_in_flight', 'bank_in_transit', 'performer_receivable')
        GROUP BY account.id
    ) AS books
    -- Of what is owed to us nothing is at hand; a debt that was paid before it was found is somebody's.
    WHERE kind <> 'performer_receivable' OR minor < 0
$$;

-- A withdrawal begins as a request; it is sent only from what nobody is owed. Two that are sent at
-- once take turns here, and the second one sees what the first one took.
CREATE FUNCTION guard_withdrawal() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (VALUES
            (NEW.sent_transaction_id, 'withdrawal_sent'),
            (NEW.conclusion_transaction_id, CASE NEW.state
                WHEN 'refused' THEN 'withdrawal_refused' ELSE 'withdrawal_confirmed' END),
            (NEW.return_transaction_id, 'withdrawal_returned')
        ) AS named (id, kind)
        WHERE named.id IS NOT NULL AND NOT EXISTS (
            SELECT FROM ledger_transaction AS booked
            WHERE booked.id = named.id AND booked.kind = named.kind AND source_id = NEW.id)
    ) THEN
        RAISE EXCEPTION 'withdrawal % names what is not booked for it', NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'withdrawal_booked';
    END IF;
    IF NEW.state <> 'sending' OR OLD.state = 'sending' THEN
        RETURN NEW;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('withdrawal ' || NEW.currency, 0));
    -- What is being sent is booked as on its way by now: what is left must not be missing.
    IF withdrawable_minor(NEW.currency) < 0 THEN
        RAISE EXCEPTION 'withdrawal % would take what others are owed', NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'withdrawal_covered';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE UPDATE ON withdrawal
    FOR EACH ROW EXECUTE FUNCTION guard_withdrawal();

-- What is booked for a withdrawal is what its row says, to the cent and to the account.
CREATE FUNCTION check_withdrawal_booking() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM withdrawal
        JOIN (VALUES
            ('withdrawal_sent', 'platform_capital', 'bank_in_transit'),
            ('withdrawal_confirmed', 'bank_in_transit', 'stripe_available'),
            ('withdrawal_refused', 'bank_in_transit', 'platform_capital'),
            ('withdrawal_returned', 'stripe_available', 'platform_capital')
        ) AS said (kind, debited, credited) ON said.kind = NEW.kind
        WHERE withdrawal.id = NEW.source_id AND withdrawal.currency = NEW.currency
          AND NEW.id = CASE NEW.kind
              WHEN 'withdrawal_sent' THEN sent_transaction_id
              WHEN 'withdrawal_returned' THEN return_transaction_id
              ELSE conclusion_transaction_id
          END
          AND (NEW.kind <> 'withdrawal_refused' OR state = 'refused')
          AND (NEW.kind <> 'withdrawal_confirmed' OR stripe_payout_id IS NOT NULL)
          AND 2 = (SELECT count(*) FROM ledger_entry WHERE transaction_id = NEW.id)
          AND 2 = (
              SELECT count(*) FROM ledger_entry AS entry
              JOIN account ON account.id = entry.account_id
              WHERE entry.transaction_id = NEW.id AND (account.kind, entry.amount_minor) IN (
                  (said.debited, withdrawal.amount_minor), (said.credited, -withdrawal.amount_minor))
          )
    ) THEN
        RAISE EXCEPTION '% of % is not what the withdrawal says', NEW.kind, NEW.source_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'withdrawal_booked';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER withdrawn AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.source_type = 'withdrawal')
    EXECUTE FUNCTION check_withdrawal_booking();
