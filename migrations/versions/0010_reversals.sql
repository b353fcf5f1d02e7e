-- Transfers that come back.

CREATE TABLE transfer_reversal (
    id uuid NOT NULL,
    payout_id uuid NOT NULL,
    transfer_id text NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    cause text,
    reason text,
    state text NOT NULL,
    state_reason text,
    asked_by uuid,
    asked_at timestamptz,
    decided_by uuid,
    decided_at timestamptz,
    due_at timestamptz,
    tries integer DEFAULT '0' NOT NULL,
    idempotency_key text,
    request jsonb,
    committed_at timestamptz,
    reversal_id text,
    balance_transaction_id text,
    reversed_at timestamptz,
    not_found_at timestamptz,
    error_code text,
    error_message text,
    stripe_request_id text,
    ledger_transaction_id uuid,
    concluded_at timestamptz,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_transfer_reversal PRIMARY KEY (id),
    CONSTRAINT ck_transfer_reversal_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_transfer_reversal_cause_known CHECK (cause IN ('wrong_destination', 'duplicate', 'fraud')),
    CONSTRAINT ck_transfer_reversal_second_person CHECK (decided_by <> asked_by),
    CONSTRAINT ck_transfer_reversal_asked_by_somebody CHECK ((state = 'found') = (cause IS NULL) AND (cause IS NULL) = (reason IS NULL) AND (cause IS NULL) = (asked_by IS NULL) AND (cause IS NULL) = (asked_at IS NULL)),
    CONSTRAINT ck_transfer_reversal_decided_by_somebody CHECK ((state IN ('found', 'asked')) = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)),
    CONSTRAINT ck_transfer_reversal_committed CHECK ((idempotency_key IS NULL) = (request IS NULL) AND (idempotency_key IS NULL) = (committed_at IS NULL)),
    CONSTRAINT ck_transfer_reversal_booked_as_stripe_has_it CHECK ((state = 'reversed') = (ledger_transaction_id IS NOT NULL) AND (state NOT IN ('reversed', 'found') OR reversal_id IS NOT NULL)),
    CONSTRAINT ck_transfer_reversal_concluded CHECK ((state IN ('reversed', 'refused', 'rejected')) = (concluded_at IS NOT NULL)),
    CONSTRAINT fk_transfer_reversal_payout_id FOREIGN KEY(payout_id) REFERENCES payout (id),
    CONSTRAINT fk_transfer_reversal_asked_by FOREIGN KEY(asked_by) REFERENCES person (id),
    CONSTRAINT fk_transfer_reversal_decided_by FOREIGN KEY(decided_by) REFERENCES person (id),
    CONSTRAINT uq_transfer_reversal_idempotency_key UNIQUE (idempotency_key),
    CONSTRAINT uq_transfer_reversal_reversal_id UNIQUE (reversal_id),
    CONSTRAINT uq_transfer_reversal_balance_transaction_id UNIQUE (balance_transaction_id),
    CONSTRAINT uq_transfer_reversal_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT fk_transfer_reversal_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_transfer_reversal_due_at ON transfer_reversal (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_transfer_reversal_payout_id ON transfer_reversal (payout_id, id);
CREATE UNIQUE INDEX uq_transfer_reversal_at_work ON transfer_reversal (payout_id) WHERE reversal_id IS NULL AND state IN ('asked', 'approved', 'sending', 'unknown');

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('payout', 'paid', 'partly_reversed'),
    ('payout', 'paid', 'reversed'),
    ('payout', 'partly_reversed', 'reversed'),
    ('transfer_reversal', NULL, 'asked'),
    ('transfer_reversal', NULL, 'found'),
    ('transfer_reversal', 'asked', 'approved'),
    ('transfer_reversal', 'asked', 'found'),
    ('transfer_reversal', 'asked', 'rejected'),
    ('transfer_reversal', 'asked', 'reversed'),
    ('transfer_reversal', 'approved', 'refused'),
    ('transfer_reversal', 'approved', 'sending'),
    ('transfer_reversal', 'sending', 'refused'),
    ('transfer_reversal', 'sending', 'reversed'),
    ('transfer_reversal', 'sending', 'unknown'),
    ('transfer_reversal', 'unknown', 'refused'),
    ('transfer_reversal', 'unknown', 'reversed'),
    ('transfer_reversal', 'found', 'asked');

CREATE TRIGGER born AFTER INSERT ON transfer_reversal FOR EACH ROW
    EXECUTE FUNCTION record_move('id');
CREATE TRIGGER moved AFTER UPDATE OF state ON transfer_reversal FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_move('id');
CREATE TRIGGER explained AFTER UPDATE OF state_reason ON transfer_reversal FOR EACH ROW
    WHEN (OLD.state = NEW.state AND NEW.state_reason IS NOT NULL
        AND OLD.state_reason IS DISTINCT FROM NEW.state_reason)
    EXECUTE FUNCTION record_reason();
CREATE TRIGGER final BEFORE UPDATE ON transfer_reversal
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('concluded_at');
CREATE TRIGGER kept BEFORE UPDATE ON transfer_reversal FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('decided_by', 'decided_at', 'idempotency_key', 'request', 'committed_at',
        'reversal_id', 'balance_transaction_id', 'reversed_at');

-- Of a paid payout, never more than was paid; by two people who are not paid by it; and Stripe is
-- asked for what was approved, under the one key of its row.
CREATE FUNCTION guard_transfer_reversal() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    paid payout%ROWTYPE;
    others bigint;
BEGIN
    SELECT * INTO paid FROM payout WHERE id = NEW.payout_id FOR NO KEY UPDATE;
    -- What came back or may have; and, when something is asked for, what else is asked for.
    SELECT coalesce(sum(amount_minor), 0) INTO others FROM transfer_reversal
    WHERE payout_id = NEW.payout_id AND id <> NEW.id AND (
        reversal_id IS NOT NULL OR state IN ('sending', 'unknown')
        OR (NEW.state = 'asked' AND NEW.reversal_id IS NULL AND state IN ('asked', 'approved')));
    IF NEW.transfer_id IS DISTINCT FROM paid.transfer_id OR NEW.currency <> paid.currency
        OR paid.performer_id IN (NEW.asked_by, NEW.decided_by)
        OR (NEW.state IN ('asked', 'sending') AND NEW.reversal_id IS NULL
            AND others + NEW.amount_minor > paid.amount_minor)
        OR (NEW.state IN ('sending', 'unknown') AND NEW.request IS NULL)
        OR (NEW.request IS NOT NULL AND (
            NEW.idempotency_key <> format('reversal-%s', NEW.id)
            OR NEW.request <> jsonb_build_object(
                'transfer_id', NEW.transfer_id, 'amount_minor', NEW.amount_minor,
                'metadata', jsonb_build_object('reversal_id', NEW.id)))) THEN
        RAISE EXCEPTION 'reversal % of % (%) does not fit payout %, of which % come back otherwise',
            NEW.id, NEW.amount_minor, NEW.state, NEW.payout_id, others
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_reversal_fits';
    END IF;
    IF TG_OP = 'INSERT' THEN
        RETURN NEW;
    END IF;
    -- What was asked stays as it was asked; only what was found is given its cause, or loses it.
    IF (OLD.cause, OLD.reason, OLD.asked_by, OLD.asked_at)
            IS DISTINCT FROM (NEW.cause, NEW.reason, NEW.asked_by, NEW.asked_at)
        AND (OLD.state, NEW.state) NOT IN (('found', 'asked'), ('asked', 'found'))
       OR (OLD.state = 'asked'
           AND (NEW.state IN ('found', 'reversed')) <> (OLD.reversal_id IS NOT NULL)
           AND NEW.state <> 'asked')
       -- Approval comes before all that is sent.
       OR (NEW.state IN ('sending', 'unknown', 'refused') AND NEW.decided_by IS NULL) THEN
        RAISE EXCEPTION 'reversal % may not go from % to %', NEW.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_reversal_state_proven';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OF state, cause, reason, asked_by, asked_at, decided_by,
    idempotency_key, request ON transfer_reversal
    FOR EACH ROW EXECUTE FUNCTION guard_transfer_reversal();

-- What came back is booked by its cause, to the cent: owed again, or a debt that is paid.
CREATE FUNCTION check_reversed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    header ledger_transaction%ROWTYPE;
BEGIN
    SELECT * INTO header FROM ledger_transaction WHERE id = NEW.transaction_id;
    IF header.kind <> 'transfer_reversed' THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        WITH source AS (
            SELECT reversal.amount_minor, payout.performer_id,
                   CASE reversal.cause WHEN 'wrong_destination' THEN 'performer_payable'
                       ELSE 'performer_receivable' END AS account
            FROM transfer_reversal AS reversal
            JOIN payout ON payout.id = reversal.payout_id
            WHERE reversal.id = header.source_id AND reversal.ledger_transaction_id = header.id
              AND reversal.currency = header.currency AND reversal.state = 'reversed'
        ), due AS (
            SELECT 'stripe_available', NULL::uuid, amount_minor FROM source
            UNION ALL SELECT account, performer_id, -amount_minor FROM source
        ), booked AS (
            SELECT account.kind, account.owner_id, entry.amount_minor
            FROM ledger_entry AS entry JOIN account ON account.id = entry.account_id
            WHERE entry.transaction_id = header.id
        )
        (TABLE due EXCEPT ALL TABLE booked) UNION ALL (TABLE booked EXCEPT ALL TABLE due)
    ) THEN
        RAISE EXCEPTION 'ledger transaction % is not what its reversal % says',
            header.id, header.source_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_reversed';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER reversed AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_reversed();

-- What a payout run pays: a credit in a performer's payable that one of these events made.
CREATE FUNCTION is_earning(kind text) RETURNS boolean LANGUAGE sql IMMUTABLE
AS $$ SELECT kind IN ('claim_paid', 'audition_paid', 'transfer_reversed') $$;

CREATE OR REPLACE FUNCTION check_payout_lines() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added
        JOIN payout ON payout.id = added.payout_id
        JOIN ledger_entry AS entry ON entry.id = added.ledger_entry_id
        JOIN account ON account.id = entry.account_id
        JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
        LEFT JOIN pay_decision AS decision
            ON decision.ledger_transaction_id = earning.id AND earning.kind = 'claim_paid'
        LEFT JOIN audition
            ON audition.ledger_transaction_id = earning.id AND earning.kind = 'audition_paid'
        LEFT JOIN transfer_reversal AS reversal
            ON reversal.ledger_transaction_id = earning.id AND earning.kind = 'transfer_reversed'
        LEFT JOIN payout AS came_back ON came_back.id = reversal.payout_id
        WHERE payout.state <> 'draft'
           OR entry.amount_minor <> -added.amount_minor
           OR account.kind <> 'performer_payable'
           OR account.owner_id <> payout.performer_id
           OR account.currency <> payout.currency
           OR coalesce(decision.performer_id, audition.performer_id, came_back.performer_id)
               IS DISTINCT FROM payout.performer_id
           OR coalesce(decision.pay_minor, audition.pay_minor, reversal.amount_minor)
               IS DISTINCT FROM added.amount_minor
    ) THEN
        RAISE EXCEPTION 'a payout line stands for one whole earning of its performer, in a draft'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'payout_line_earning';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION guard_payout() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    run_is text := (SELECT state FROM payout_run WHERE id = NEW.run_id);
    in_flight boolean := EXISTS (
        SELECT FROM payout_attempt WHERE payout_id = NEW.id AND outcome IS NULL);
    returned bigint := (
        SELECT coalesce(sum(amount_minor), 0) FROM transfer_reversal
        WHERE payout_id = NEW.id AND state = 'reversed');
BEGIN
    IF (CASE NEW.state
        WHEN 'draft' THEN run_is = 'draft'
        WHEN 'approved' THEN run_is = 'approved' AND NOT in_flight
        WHEN 'sending' THEN in_flight
        WHEN 'refused' THEN NOT in_flight
        WHEN 'paid' THEN EXISTS (
            SELECT FROM payout_attempt
            WHERE payout_id = NEW.id AND outcome = 'succeeded' AND transfer_id = NEW.transfer_id)
        WHEN 'partly_reversed' THEN returned > 0 AND returned < NEW.amount_minor
        WHEN 'reversed' THEN returned = NEW.amount_minor
        ELSE true
    END) IS NOT TRUE THEN
        RAISE EXCEPTION 'payout % may not be %: its run is %, an attempt in flight: %',
            NEW.id, NEW.state, run_is, in_flight
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_state_proven';
    END IF;
    RETURN NEW;
END
$$;
