-- Corrections: proposed by one person, approved by another, booked as a difference.

CREATE TABLE correction (
    id uuid NOT NULL,
    kind text NOT NULL,
    performer_id uuid NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    reason text NOT NULL,
    claim_id uuid,
    seconds bigint,
    pay_minor bigint,
    booked_minor bigint,
    state text NOT NULL,
    state_reason text,
    proposed_by uuid NOT NULL,
    proposed_at timestamptz DEFAULT marketplace_now() NOT NULL,
    decided_by uuid,
    decided_at timestamptz,
    client_minor bigint,
    platform_minor bigint,
    fee_minor bigint,
    reservation_id uuid,
    ledger_transaction_id uuid,
    CONSTRAINT pk_correction PRIMARY KEY (id),
    CONSTRAINT ck_correction_kind_known CHECK (kind IN ('pay_corrected', 'pay_adjusted', 'receivable_netted', 'receivable_written_off')),
    CONSTRAINT ck_correction_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_correction_second_person CHECK (decided_by <> proposed_by),
    CONSTRAINT ck_correction_not_their_own CHECK (performer_id <> proposed_by AND performer_id <> decided_by),
    CONSTRAINT ck_correction_decided_by_somebody CHECK ((state = 'proposed') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)),
    CONSTRAINT ck_correction_booked_when_approved CHECK ((state = 'approved') = (ledger_transaction_id IS NOT NULL) AND (ledger_transaction_id IS NULL) = (client_minor IS NULL) AND (client_minor IS NULL) = (platform_minor IS NULL) AND (client_minor IS NULL) = (fee_minor IS NULL)),
    CONSTRAINT ck_correction_of_a_claim CHECK ((kind = 'pay_corrected') = (claim_id IS NOT NULL) AND (claim_id IS NULL) = (seconds IS NULL) AND (claim_id IS NULL) = (pay_minor IS NULL) AND (claim_id IS NULL) = (booked_minor IS NULL) AND (claim_id IS NULL OR amount_minor = abs(pay_minor - booked_minor))),
    CONSTRAINT ck_correction_borne CHECK (CASE kind WHEN 'pay_corrected' THEN client_minor + platform_minor  = pay_minor - booked_minor AND sign(client_minor) * sign(platform_minor) >= 0 WHEN 'pay_adjusted' THEN (client_minor, platform_minor, fee_minor)  = (0, amount_minor, 0) ELSE (client_minor, platform_minor, fee_minor) = (0, 0, 0) END),
    CONSTRAINT ck_correction_reserve_of_the_client CHECK (reservation_id IS NULL OR client_minor <> 0),
    CONSTRAINT ck_correction_reserved CHECK (client_minor <= 0 OR reservation_id IS NOT NULL),
    CONSTRAINT fk_correction_performer_id FOREIGN KEY(performer_id) REFERENCES performer (person_id),
    CONSTRAINT fk_correction_claim_id FOREIGN KEY(claim_id) REFERENCES claim (id),
    CONSTRAINT fk_correction_proposed_by FOREIGN KEY(proposed_by) REFERENCES person (id),
    CONSTRAINT fk_correction_decided_by FOREIGN KEY(decided_by) REFERENCES person (id),
    CONSTRAINT fk_correction_reservation_id FOREIGN KEY(reservation_id) REFERENCES reservation (id),
    CONSTRAINT uq_correction_ledger_transaction_id UNIQUE (ledger_transaction_id),
    CONSTRAINT fk_correction_ledger_transaction_id FOREIGN KEY(ledger_transaction_id) REFERENCES ledger_transaction (id)
);
CREATE INDEX ix_correction_claim_id ON correction (claim_id);
CREATE INDEX ix_correction_performer_id ON correction (performer_id, id);
CREATE UNIQUE INDEX uq_correction_proposed ON correction (claim_id) WHERE state = 'proposed';

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('correction', NULL, 'proposed'),
    ('correction', 'proposed', 'approved'),
    ('correction', 'proposed', 'rejected');

CREATE TRIGGER born AFTER INSERT ON correction FOR EACH ROW
    EXECUTE FUNCTION record_move('id');
CREATE TRIGGER moved AFTER UPDATE OF state ON correction FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_move('id');
CREATE TRIGGER final BEFORE UPDATE ON correction
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('decided_at');

-- What a run pays, or takes off: an entry in a performer's payable that one of these events made.
CREATE OR REPLACE FUNCTION is_earning(kind text) RETURNS boolean LANGUAGE sql IMMUTABLE
AS $$ 
    SELECT kind IN
        ('claim_paid', 'audition_paid', 'transfer_reversed', 'pay_adjusted', 'receivable_netted')
 $$;

-- A line may take off what two people netted.
ALTER TABLE payout_line DROP CONSTRAINT ck_payout_line_positive;
ALTER TABLE payout_line ADD CONSTRAINT ck_payout_line_not_zero CHECK (amount_minor <> 0) NOT VALID;

-- What a performer owes us.
CREATE FUNCTION receivable_minor(performer uuid, of_currency text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(amount_minor), 0)::bigint FROM ledger_entry
    WHERE account_id = account_id('performer_receivable', performer, of_currency)
$$;

-- What a performer is owed and is in no payout: earnings, less what is netted already.
CREATE FUNCTION free_pay_minor(performer uuid, of_currency text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce(-sum(entry.amount_minor), 0)::bigint
    FROM ledger_entry AS entry
    JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
    WHERE entry.account_id = account_id('performer_payable', performer, of_currency)
      AND is_earning(earning.kind)
      AND NOT EXISTS (SELECT FROM payout_line
          WHERE ledger_entry_id = entry.id AND released_at IS NULL)
$$;

-- A claim's new total is its seconds at its locked rate; the difference to what is booked until now
-- goes back to whom it came from, the platform first, with the fee on what the client bears.
CREATE FUNCTION guard_correction() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    paid claim%ROWTYPE;
    client bigint;
    platform bigint;
    fee bigint;
    role_reserve uuid;
BEGIN
    PERFORM FROM performer WHERE person_id = NEW.performer_id FOR NO KEY UPDATE;
    IF NEW.claim_id IS NULL THEN
        RETURN NEW;
    END IF;
    SELECT * INTO paid FROM claim WHERE id = NEW.claim_id;
    SELECT reservation_id INTO role_reserve FROM role WHERE id = paid.role_id;
    SELECT coalesce(sum(pay_minor), 0), coalesce(sum(fee_minor), 0) INTO client, fee
    FROM pay_decision WHERE claim_id = NEW.claim_id;
    SELECT client + coalesce(sum(client_minor), 0), coalesce(sum(platform_minor), 0),
           fee + coalesce(sum(fee_minor), 0)
    INTO client, platform, fee
    FROM correction WHERE claim_id = NEW.claim_id AND id <> NEW.id AND state = 'approved';
    IF NEW.performer_id <> paid.performer_id OR NEW.currency <> paid.currency
        OR NOT EXISTS (SELECT FROM pay_decision WHERE claim_id = NEW.claim_id)
        OR NEW.seconds < 0 OR NEW.pay_minor <> pay_minor(NEW.seconds, paid.rate_minor_per_hour)
        OR (NEW.state <> 'rejected' AND NEW.booked_minor <> client + platform)
        OR (NEW.state = 'approved' AND (
            NEW.fee_minor <> fee_minor(client + NEW.client_minor, paid.fee_basis_points) - fee
            OR (NEW.pay_minor > NEW.booked_minor
                AND (NEW.client_minor * NEW.platform_minor <> 0
                    OR (NEW.client_minor > 0
                        AND NEW.reservation_id IS DISTINCT FROM paid.reservation_id)))
            OR (NEW.pay_minor < NEW.booked_minor
                AND (NEW.platform_minor <> -least(platform, NEW.amount_minor)
                    OR (NEW.reservation_id IS NOT NULL
                        AND NEW.reservation_id IS DISTINCT FROM paid.reservation_id
                        AND NEW.reservation_id IS DISTINCT FROM role_reserve))))) THEN
        RAISE EXCEPTION 'correction % is not what claim % and its bookings (% + %, fee %) say',
            NEW.id, NEW.claim_id, client, platform, fee
            USING ERRCODE = 'check_violation', CONSTRAINT = 'correction_exact';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON correction
    FOR EACH ROW EXECUTE FUNCTION guard_correction();

-- A correction is booked to the cent as its row says; a debt is netted or given up only as far as it
-- goes, and netted only against pay that is in no payout.
CREATE FUNCTION check_corrected() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    header ledger_transaction%ROWTYPE;
    said correction%ROWTYPE;
BEGIN
    SELECT * INTO header FROM ledger_transaction WHERE id = NEW.transaction_id;
    IF header.source_type <> 'correction' THEN
        RETURN NULL;
    END IF;
    SELECT * INTO said FROM correction
    WHERE id = header.source_id AND ledger_transaction_id = header.id
      AND currency = header.currency AND state = 'approved'
      AND header.kind = CASE WHEN kind IN ('receivable_netted', 'receivable_written_off') THEN kind
          WHEN client_minor + platform_minor < 0 THEN 'overpayment_found' ELSE 'pay_adjusted' END;
    IF said.id IS NULL OR EXISTS (
        WITH side (account, owner_id, minor) AS (VALUES
            ('performer_payable', said.performer_id, CASE header.kind
                WHEN 'pay_adjusted' THEN -said.amount_minor
                WHEN 'receivable_netted' THEN said.amount_minor END),
            ('performer_receivable', said.performer_id, CASE header.kind
                WHEN 'pay_adjusted' THEN NULL
                WHEN 'overpayment_found' THEN said.amount_minor
                ELSE -said.amount_minor END),
            ('bad_debt', NULL, CASE header.kind
                WHEN 'receivable_written_off' THEN said.amount_minor END),
            ('platform_expense', NULL, said.platform_minor),
            ('platform_fees', NULL, -said.fee_minor),
            (CASE WHEN said.reservation_id IS NULL THEN 'client_wallet' ELSE 'job_reserve' END,
             coalesce(said.reservation_id, (SELECT client_id FROM claim WHERE id = said.claim_id)),
             said.client_minor + said.fee_minor)
        ), due AS (
            SELECT account, owner_id, minor FROM side WHERE minor <> 0
        ), booked AS (
            SELECT account.kind, account.owner_id, entry.amount_minor
            FROM ledger_entry AS entry JOIN account ON account.id = entry.account_id
            WHERE entry.transaction_id = header.id
        )
        (TABLE due EXCEPT ALL TABLE booked) UNION ALL (TABLE booked EXCEPT ALL TABLE due)
    ) OR (header.kind IN ('receivable_netted', 'receivable_written_off')
          AND receivable_minor(said.performer_id, said.currency) < 0)
      OR (header.kind = 'receivable_netted'
          AND free_pay_minor(said.performer_id, said.currency) < 0) THEN
        RAISE EXCEPTION 'ledger transaction % (%) is not what its correction % says',
            header.id, header.kind, header.source_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_corrected';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER corrected AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_corrected();

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
        LEFT JOIN correction
            ON correction.ledger_transaction_id = earning.id
            AND earning.kind IN ('pay_adjusted', 'receivable_netted')
        WHERE payout.state <> 'draft'
           OR entry.amount_minor <> -added.amount_minor
           OR account.kind <> 'performer_payable'
           OR account.owner_id <> payout.performer_id
           OR account.currency <> payout.currency
           OR coalesce(decision.performer_id, audition.performer_id, came_back.performer_id,
                correction.performer_id)
               IS DISTINCT FROM payout.performer_id
           OR coalesce(decision.pay_minor, audition.pay_minor, reversal.amount_minor,
                   CASE correction.kind WHEN 'receivable_netted' THEN -correction.amount_minor
                       ELSE correction.amount_minor END)
               IS DISTINCT FROM added.amount_minor
    ) OR EXISTS (
        -- What was taken off a performer's pay is taken off the next payout, whatever else it pays.
        SELECT FROM payout
        JOIN ledger_entry AS entry
            ON entry.account_id = account_id('performer_payable', payout.performer_id, payout.currency)
        JOIN ledger_transaction AS netted ON netted.id = entry.transaction_id
        WHERE payout.id IN (SELECT payout_id FROM added) AND netted.kind = 'receivable_netted'
          AND NOT EXISTS (SELECT FROM payout_line
              WHERE ledger_entry_id = entry.id AND released_at IS NULL)
    ) THEN
        RAISE EXCEPTION 'a payout line stands for one whole earning of its performer, in a draft'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'payout_line_earning';
    END IF;
    RETURN NULL;
END
$$;
