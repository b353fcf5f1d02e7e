-- Guards that hold whatever isolation, and whatever order of checks, a transaction asks for.

-- 1. Many guards wait for whoever is before them and then read what that one left. A transaction that
-- keeps to an older snapshot would not read it, so it writes none of these.
CREATE FUNCTION require_read_committed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION '% is written in READ COMMITTED only', TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'read_committed';
    END IF;
    RETURN NULL;
END
$$;

DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'ledger_transaction', 'payout_run', 'payout', 'payout_line', 'payout_attempt',
        'transfer_reversal', 'withdrawal', 'refund', 'dispute', 'client_debt_decision', 'correction',
        'line_booking', 'client_charge', 'pay_decision', 'person_role', 'client_member'
    ] LOOP
        EXECUTE format('CREATE TRIGGER read_committed BEFORE INSERT OR UPDATE OR DELETE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION require_read_committed()', name);
    END LOOP;
END
$do$;

-- 2. The entries of a ledger transaction are written by one statement. So no check of it, on its header
-- or on its source, can be made (SET CONSTRAINTS ALL IMMEDIATE) before the last of them is there: one
-- without entries does not balance.
CREATE FUNCTION require_entries_at_once() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF (SELECT count(*) FROM added) <> (
        SELECT count(*) FROM ledger_entry
        WHERE transaction_id IN (SELECT transaction_id FROM added)
    ) THEN
        RAISE EXCEPTION 'the entries of a ledger transaction are written by one statement'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_entries_at_once';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER at_once AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION require_entries_at_once();

-- 3. What is booked for a top-up, a deposit, a reserve's move or an attempt is what its row says, to
-- the cent and to the account, as it is for all other events.
CREATE FUNCTION check_source_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    -- One plan for each kind of source: an account's id follows from what it is.
    accounts uuid[];
    minors bigint[];
BEGIN
    CASE NEW.source_type
    WHEN 'reserve_move' THEN
        SELECT ARRAY[
                   CASE WHEN from_reservation_id IS NULL
                       THEN account_id('client_wallet', client_id, currency)
                       ELSE account_id('job_reserve', from_reservation_id, currency) END,
                   CASE WHEN to_reservation_id IS NULL
                       THEN account_id('client_wallet', client_id, currency)
                       ELSE account_id('job_reserve', to_reservation_id, currency) END],
               ARRAY[amount_minor, -amount_minor]
        INTO accounts, minors
        FROM reserve_move WHERE id = NEW.source_id AND ledger_transaction_id = NEW.id;
    WHEN 'payout_attempt' THEN
        SELECT CASE NEW.kind
               WHEN 'transfer_sent' THEN ARRAY[payable, in_flight]
               WHEN 'transfer_confirmed' THEN ARRAY[in_flight, cash]
               ELSE ARRAY[in_flight, payable] END,
               ARRAY[amount_minor, -amount_minor]
        INTO accounts, minors
        FROM payout_attempt AS attempt
        JOIN payout ON payout.id = attempt.payout_id, LATERAL (
            SELECT account_id('performer_payable', performer_id, currency) AS payable,
                   account_id('transfers_in_flight', NULL, currency) AS in_flight,
                   account_id('stripe_available', NULL, currency) AS cash
        ) AS account
        WHERE attempt.id = NEW.source_id AND NEW.id = CASE
            WHEN NEW.kind = 'transfer_sent' THEN in_flight_transaction_id
            WHEN NEW.kind = 'transfer_confirmed' AND outcome = 'succeeded'
                OR NEW.kind = 'transfer_refused' AND outcome = 'refused'
                THEN conclusion_transaction_id END;
    WHEN 'deposit' THEN
        SELECT CASE NEW.kind
               WHEN 'deposit_credited' THEN ARRAY[
                   account_id(
                       -- Stripe's line of a payment in another currency is the platform's.
                       CASE WHEN foreign_line_id IS NULL THEN 'stripe_pending'
                           ELSE 'platform_capital' END, NULL, currency),
                   account_id('stripe_fees', NULL, currency),
                   account_id('client_wallet', client_id, currency)]
               ELSE ARRAY[
                   account_id('stripe_available', NULL, currency),
                   account_id('stripe_pending', NULL, currency)] END,
               CASE NEW.kind
               WHEN 'deposit_credited' THEN ARRAY[net_minor, amount_minor - net_minor, -amount_minor]
               ELSE ARRAY[net_minor, -net_minor] END
        INTO accounts, minors
        FROM deposit, LATERAL (SELECT amount_minor - coalesce(fee_minor, 0) AS net_minor) AS net
        WHERE id = NEW.source_id
          AND (state = 'available' OR state = 'credited' AND NEW.kind = 'deposit_credited');
    WHEN 'topup' THEN
        SELECT ARRAY[account_id('stripe_available', NULL, currency),
                     account_id('platform_capital', NULL, currency)],
               ARRAY[amount_minor, -amount_minor]
        INTO accounts, minors
        FROM topup WHERE id = NEW.source_id AND state = 'succeeded';
    END CASE;
    IF accounts IS NULL OR EXISTS (
        WITH said AS (
            SELECT * FROM unnest(accounts, minors) AS entry (account_id, minor) WHERE minor <> 0
        ), booked AS (
            SELECT account_id, amount_minor FROM ledger_entry WHERE transaction_id = NEW.id
        )
        (TABLE said EXCEPT ALL TABLE booked) UNION ALL (TABLE booked EXCEPT ALL TABLE said)
    ) THEN
        RAISE EXCEPTION 'ledger transaction % (%) is not what its source % says',
            NEW.id, NEW.kind, NEW.source_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_as_said';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER said AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.source_type IN ('topup', 'deposit', 'reserve_move', 'payout_attempt'))
    EXECUTE FUNCTION check_source_entries();

-- 4. The row that a line waits for may have come to be known since somebody said what the line is.
CREATE FUNCTION guard_booked_line() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF line_waits_for(NEW.line_id) IS NOT NULL THEN
        RAISE EXCEPTION '% waits for %', NEW.line_id, line_waits_for(NEW.line_id)
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'line_booking_waits';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER booked_after_all BEFORE UPDATE OF state ON line_booking FOR EACH ROW
    WHEN (NEW.state = 'booked') EXECUTE FUNCTION guard_booked_line();

-- 5. A month that is being closed says by whom.
ALTER TABLE accounting_period ADD CONSTRAINT ck_accounting_period_closing_by_somebody CHECK (state = 'open' OR closing_by IS NOT NULL) NOT VALID;

-- 6. Who lets a held or refused payout be tried again is named until it is held or refused anew; it is
-- neither who prepared or edited its run, nor who is paid by it. What Stripe has just refused for want
-- of funds is tried again by itself: its approval stands.
ALTER TABLE payout ADD COLUMN approved_again_by uuid;
ALTER TABLE payout ADD CONSTRAINT fk_payout_approved_again_by FOREIGN KEY(approved_again_by) REFERENCES person (id) NOT VALID;
CREATE FUNCTION guard_approved_again() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    lacked_funds boolean := 'refused' IN (OLD.state, NEW.state) AND EXISTS (
        SELECT FROM payout_attempt
        WHERE payout_id = NEW.id AND error_code = 'balance_insufficient'
          AND concluded_at = marketplace_now()
    ) AND EXISTS (SELECT FROM payout_run WHERE id = NEW.run_id AND state <> 'draft');
BEGIN
    IF NEW.state IN ('draft', 'held') OR NEW.state = 'refused' AND NOT lacked_funds THEN
        NEW.approved_again_by := NULL;
    ELSIF OLD.state IN ('held', 'refused') AND NEW.state = 'approved'
        AND NOT (lacked_funds AND NEW.approved_again_by IS NOT DISTINCT FROM OLD.approved_again_by)
    THEN
        IF NEW.approved_again_by IS NULL OR NEW.approved_again_by = NEW.performer_id OR EXISTS (
            SELECT FROM payout_run
            WHERE id = NEW.run_id
              AND (prepared_by = NEW.approved_again_by OR NEW.approved_again_by = ANY (edited_by))
        ) THEN
            RAISE EXCEPTION 'payout % is approved again by a second person', NEW.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_second_person';
        END IF;
    ELSIF NEW.approved_again_by IS DISTINCT FROM OLD.approved_again_by THEN
        RAISE EXCEPTION 'who approved payout % again stays named', NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'set_once';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER approved_again BEFORE UPDATE ON payout
    FOR EACH ROW EXECUTE FUNCTION guard_approved_again();
