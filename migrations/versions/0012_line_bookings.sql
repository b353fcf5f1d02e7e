-- What finance books of Stripe's lines that no event of ours explains.

-- Stripe's line of a payment that it settled in another currency than its wallet's.
ALTER TABLE deposit ADD COLUMN foreign_line_id text;
ALTER TABLE deposit ADD CONSTRAINT uq_deposit_foreign_line_id UNIQUE (foreign_line_id);
CREATE TRIGGER kept_line BEFORE UPDATE ON deposit
    FOR EACH ROW EXECUTE FUNCTION keep_what_is_set('foreign_line_id');

CREATE TABLE line_booking (
    id uuid NOT NULL,
    line_id text NOT NULL,
    booked_as text NOT NULL,
    currency text NOT NULL,
    net_minor bigint NOT NULL,
    reason text NOT NULL,
    proposed_by uuid NOT NULL,
    proposed_at timestamptz DEFAULT marketplace_now() NOT NULL,
    state text NOT NULL,
    state_reason text,
    decided_by uuid,
    decided_at timestamptz,
    ledger_transaction_id uuid,
    deposit_id uuid,
    CONSTRAINT pk_line_booking PRIMARY KEY (id),
    CONSTRAINT ck_line_booking_moves_something CHECK (net_minor <> 0),
    CONSTRAINT ck_line_booking_booked_as_known CHECK (booked_as IN ('stripe_fee', 'capital', 'foreign_deposit')),
    CONSTRAINT ck_line_booking_of_a_deposit CHECK ((booked_as = 'foreign_deposit') = (deposit_id IS NOT NULL)),
    CONSTRAINT ck_line_booking_second_person CHECK (state <> 'booked' OR decided_by <> proposed_by),
    CONSTRAINT ck_line_booking_decided_by_somebody CHECK ((state = 'proposed') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)),
    CONSTRAINT ck_line_booking_booked_as_said CHECK ((state = 'booked') = (ledger_transaction_id IS NOT NULL)),
    CONSTRAINT uq_line_booking_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT fk_line_booking_line_id FOREIGN KEY(line_id) REFERENCES stripe_line (id),
    CONSTRAINT fk_line_booking_proposed_by FOREIGN KEY(proposed_by) REFERENCES person (id),
    CONSTRAINT fk_line_booking_decided_by FOREIGN KEY(decided_by) REFERENCES person (id),
    CONSTRAINT fk_line_booking_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id),
    CONSTRAINT fk_line_booking_deposit_id FOREIGN KEY(deposit_id) REFERENCES deposit (id)
);
CREATE UNIQUE INDEX uq_line_booking_line ON line_booking (line_id) WHERE state <> 'discarded';

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('line_booking', NULL, 'proposed'),
    ('line_booking', 'proposed', 'booked'),
    ('line_booking', 'proposed', 'discarded');

CREATE TRIGGER born AFTER INSERT ON line_booking FOR EACH ROW EXECUTE FUNCTION record_move('id');
CREATE TRIGGER moved AFTER UPDATE OF state ON line_booking FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_move('id');
CREATE TRIGGER final BEFORE UPDATE ON line_booking
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('decided_at');
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON line_booking
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Which row of ours a line waits for: the event that books it is merely late, or waits for a person.
-- While that row may yet book the line, nobody says that the line is something else.
CREATE FUNCTION line_waits_for(line text) RETURNS text LANGUAGE sql STABLE AS $$
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

-- It speaks of a line as Stripe has it, and of none that is booked already or waits for its own row.
CREATE FUNCTION guard_line_booking() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM stripe_line
        WHERE id = NEW.line_id AND currency = NEW.currency AND net_minor = NEW.net_minor
    ) OR EXISTS (SELECT FROM booked_balance_transaction WHERE id = NEW.line_id)
        -- What a client paid is only ever credited to that client.
        OR NEW.deposit_id IS DISTINCT FROM (SELECT id FROM deposit WHERE foreign_line_id = NEW.line_id)
    THEN
        RAISE EXCEPTION '% is not what Stripe has, or is booked already', NEW.line_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'line_booking_line';
    END IF;
    IF NEW.state <> 'discarded' AND line_waits_for(NEW.line_id) IS NOT NULL THEN
        RAISE EXCEPTION '% waits for %', NEW.line_id, line_waits_for(NEW.line_id)
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'line_booking_waits';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT ON line_booking
    FOR EACH ROW EXECUTE FUNCTION guard_line_booking();

-- What is booked is what two people said, to the cent; and Stripe's line is named. Arguments: the
-- column that holds the booking's id in the row that is written.
CREATE FUNCTION check_line_booking() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
CREATE CONSTRAINT TRIGGER line_booked AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.source_type = 'line_booking')
    EXECUTE FUNCTION check_line_booking('source_id');
CREATE CONSTRAINT TRIGGER line_booked AFTER UPDATE ON line_booking
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.state = 'booked')
    EXECUTE FUNCTION check_line_booking('id');
