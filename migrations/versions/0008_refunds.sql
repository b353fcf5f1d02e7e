-- Refunds of deposits to the clients who paid them.

ALTER TABLE deposit ADD COLUMN payment_intent_id text;
ALTER TABLE deposit ADD CONSTRAINT uq_deposit_payment_intent_id UNIQUE (payment_intent_id);
ALTER TABLE deposit ADD CONSTRAINT uq_deposit_id_client_id_currency UNIQUE (id, client_id, currency);
CREATE TRIGGER kept_payment BEFORE UPDATE ON deposit FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('payment_intent_id');

CREATE TABLE refund (
    id uuid NOT NULL,
    request_id uuid NOT NULL,
    client_id uuid NOT NULL,
    deposit_id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    requested_by uuid NOT NULL,
    requested_at timestamptz DEFAULT marketplace_now() NOT NULL,
    idempotency_key text NOT NULL,
    state text NOT NULL,
    state_reason text,
    due_at timestamptz,
    tries integer DEFAULT 0 NOT NULL,
    not_found_at timestamptz,
    stripe_refund_id text,
    stripe_request_id text,
    error_code text,
    sent_transaction_id uuid NOT NULL,
    confirmed_transaction_id uuid,
    ended_transaction_id uuid,
    CONSTRAINT pk_refund PRIMARY KEY (id),
    CONSTRAINT uq_refund_idempotency_key UNIQUE (idempotency_key),
    CONSTRAINT uq_refund_stripe_refund_id UNIQUE (stripe_refund_id),
    CONSTRAINT uq_refund_sent_transaction_id UNIQUE (sent_transaction_id),
    CONSTRAINT uq_refund_confirmed_transaction_id UNIQUE (confirmed_transaction_id),
    CONSTRAINT uq_refund_ended_transaction_id UNIQUE (ended_transaction_id),
    CONSTRAINT ck_refund_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_refund_key_of_its_own CHECK (idempotency_key = 'refund-' || id),
    CONSTRAINT ck_refund_at_stripe CHECK (CASE WHEN state IN ('sending', 'unknown') THEN stripe_refund_id IS NULL WHEN state = 'refused' THEN true ELSE stripe_refund_id IS NOT NULL END),
    CONSTRAINT ck_refund_money_moved CHECK (CASE WHEN state IN ('succeeded', 'returned') THEN confirmed_transaction_id IS NOT NULL WHEN state = 'pending' THEN true ELSE confirmed_transaction_id IS NULL END),
    CONSTRAINT ck_refund_in_the_wallet_again CHECK ((state IN ('refused', 'returned')) = (ended_transaction_id IS NOT NULL)),
    CONSTRAINT fk_refund_client_id FOREIGN KEY(client_id) REFERENCES client (id),
    CONSTRAINT fk_refund_deposit FOREIGN KEY(deposit_id, client_id, currency) REFERENCES deposit (id, client_id, currency),
    CONSTRAINT fk_refund_sent_transaction_id FOREIGN KEY(sent_transaction_id) REFERENCES ledger_transaction (id),
    CONSTRAINT fk_refund_confirmed_transaction_id FOREIGN KEY(confirmed_transaction_id) REFERENCES ledger_transaction (id),
    CONSTRAINT fk_refund_ended_transaction_id FOREIGN KEY(ended_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_refund_request_id ON refund (request_id);
CREATE INDEX ix_refund_client_id ON refund (client_id, id);
CREATE INDEX ix_refund_deposit_id ON refund (deposit_id);
CREATE INDEX ix_refund_due_at ON refund (due_at) WHERE due_at IS NOT NULL;

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('refund', NULL, 'sending'),
    ('refund', 'sending', 'pending'),
    ('refund', 'sending', 'refused'),
    ('refund', 'sending', 'unknown'),
    ('refund', 'unknown', 'pending'),
    ('refund', 'unknown', 'refused'),
    ('refund', 'pending', 'refused'),
    ('refund', 'pending', 'returned'),
    ('refund', 'pending', 'succeeded'),
    ('refund', 'succeeded', 'returned');

CREATE TRIGGER born AFTER INSERT ON refund FOR EACH ROW EXECUTE FUNCTION record_move('id');
CREATE TRIGGER moved AFTER UPDATE OF state ON refund FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_move('id');
CREATE TRIGGER final BEFORE UPDATE ON refund
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('ended_transaction_id');
CREATE TRIGGER kept BEFORE UPDATE ON refund FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('stripe_refund_id', 'confirmed_transaction_id');

-- Of a deposit never more goes back than came in.
CREATE FUNCTION guard_refund() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    paid deposit%ROWTYPE;
    refunded numeric;
BEGIN
    -- Whoever refunds the same deposit waits here; what is read below is what they left.
    SELECT * INTO paid FROM deposit WHERE id = NEW.deposit_id FOR NO KEY UPDATE;
    SELECT coalesce(sum(amount_minor), 0) INTO refunded
    FROM refund WHERE deposit_id = NEW.deposit_id AND state NOT IN ('refused', 'returned');
    IF current_setting('transaction_isolation') <> 'read committed'
        OR paid.state NOT IN ('credited', 'available')
        OR refunded + NEW.amount_minor > paid.amount_minor THEN
        RAISE EXCEPTION 'deposit % of % (%) is refunded by % already',
            paid.id, paid.amount_minor, paid.state, refunded
            USING ERRCODE = 'check_violation', CONSTRAINT = 'refund_within_deposit';
    END IF;
    NEW.requested_at := marketplace_now();
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT ON refund FOR EACH ROW EXECUTE FUNCTION guard_refund();

-- What the ledger has of a refund is what its row says, and the row names it. Checked from both
-- tables.
CREATE FUNCTION check_refund_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
CREATE CONSTRAINT TRIGGER refunded AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_refund_entries();

CREATE FUNCTION check_refund_transactions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
CREATE CONSTRAINT TRIGGER booked AFTER INSERT OR UPDATE ON refund
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_refund_transactions();
