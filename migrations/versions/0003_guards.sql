-- What the database itself refuses, even to the application's own login.

-- 1. Append-only tables: a mistake is corrected by a new row that points at the old one.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'append_only';
END
$$;

DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'account', 'ledger_transaction', 'ledger_entry', 'booked_balance_transaction',
        'rate_lineage', 'rate', 'minimum_rate', 'consent_grant', 'consent_withdrawal',
        'audit_event', 'feed_event', 'reservation', 'reserve_move', 'pay_decision',
        'payout_exclusion', 'claim_recording', 'submission_recording', 'download_link'
    ] LOOP
        EXECUTE format(
            'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I'
            ' FOR EACH ROW EXECUTE FUNCTION refuse_change()', name);
        EXECUTE format(
            'CREATE TRIGGER never_emptied BEFORE TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    END LOOP;
END
$do$;

-- 2. Rows that become final: once the named column is set, the row never changes again.
CREATE FUNCTION refuse_change_when_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(OLD) ->> TG_ARGV[0] IS NOT NULL THEN
        RAISE EXCEPTION '% is final once % is set', TG_TABLE_NAME, TG_ARGV[0]
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'final';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER final BEFORE UPDATE ON time_entry
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('ended_at');
CREATE TRIGGER final BEFORE UPDATE ON review
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('decided_at');
CREATE TRIGGER final BEFORE UPDATE ON payout_line
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('released_at');
CREATE TRIGGER final BEFORE UPDATE ON payout_attempt
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('concluded_at');
CREATE TRIGGER final BEFORE UPDATE ON stripe_event
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('handled_at');

-- Columns that are written once: what they say is never replaced.
CREATE FUNCTION keep_what_is_set() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := to_jsonb(OLD);
    after jsonb := to_jsonb(NEW);
    name text;
BEGIN
    FOREACH name IN ARRAY TG_ARGV LOOP
        IF before ->> name IS NOT NULL AND before -> name <> after -> name THEN
            RAISE EXCEPTION '%.% is set and stays', TG_TABLE_NAME, name
                USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'set_once';
        END IF;
    END LOOP;
    RETURN NEW;
END
$$;

CREATE TRIGGER kept BEFORE UPDATE ON audition FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('started_at', 'ended_at', 'paid_seconds', 'pay_minor', 'ledger_transaction_id');
CREATE TRIGGER kept BEFORE UPDATE ON claim FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('reservation_id');
CREATE TRIGGER kept_reserve BEFORE UPDATE OF reservation_id ON role FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('reservation_id');
CREATE TRIGGER kept BEFORE UPDATE ON deposit FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('checkout_session_id', 'fee_minor', 'available_on');
CREATE TRIGGER kept BEFORE UPDATE ON topup FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('stripe_topup_id');
CREATE TRIGGER kept BEFORE UPDATE ON payout FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('transfer_id');
CREATE TRIGGER kept BEFORE UPDATE ON payout_run FOR EACH ROW EXECUTE FUNCTION
    keep_what_is_set('approved_by', 'approved_at');

-- What is published is agreed: a job keeps all but its state, and what is funded is not deleted.
CREATE FUNCTION guard_published_job() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving constant text[] := ARRAY['state', 'state_reason', 'version'];
BEGIN
    IF OLD.state <> 'draft' AND to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving THEN
        RAISE EXCEPTION 'job % is published and stays as it is', OLD.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'job_published';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER published BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION guard_published_job();

CREATE FUNCTION keep_what_was_funded() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.reservation_id IS NOT NULL THEN
        RAISE EXCEPTION 'role % was funded and stays', OLD.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'role_funded';
    END IF;
    RETURN OLD;
END
$$;
CREATE TRIGGER kept BEFORE DELETE ON role FOR EACH ROW EXECUTE FUNCTION keep_what_was_funded();

-- What was handed in is what was judged: its bytes stay.
CREATE FUNCTION keep_what_was_handed_in() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM submission_recording WHERE recording_id = NEW.id)
        OR EXISTS (SELECT FROM audition WHERE performer_id = NEW.owner_id AND recording_id = NEW.id)
    THEN
        RAISE EXCEPTION 'recording % was handed in and stays', NEW.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'recording_handed_in';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER kept BEFORE UPDATE OF state ON recording FOR EACH ROW
    WHEN (NEW.state = 'purged') EXECUTE FUNCTION keep_what_was_handed_in();

-- Somebody is always left who can let others in: the last operator and a client's last member stay.
CREATE FUNCTION keep_last_operator() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    -- Two who remove each other take turns; the second one sees what the first one left.
    PERFORM pg_advisory_xact_lock(hashtextextended('operators', 0));
    IF NOT EXISTS (
        SELECT FROM person_role WHERE role = 'operator' AND person_id <> OLD.person_id
    ) THEN
        RAISE EXCEPTION 'the last operator stays'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'last_operator';
    END IF;
    RETURN OLD;
END
$$;
CREATE TRIGGER kept BEFORE DELETE ON person_role
    FOR EACH ROW WHEN (OLD.role = 'operator') EXECUTE FUNCTION keep_last_operator();

CREATE FUNCTION keep_last_member() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM client WHERE id = OLD.client_id FOR NO KEY UPDATE;
    IF NOT EXISTS (
        SELECT FROM client_member
        WHERE client_id = OLD.client_id AND person_id <> OLD.person_id
    ) THEN
        RAISE EXCEPTION 'the last member of a client stays'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'last_member';
    END IF;
    RETURN OLD;
END
$$;
CREATE TRIGGER kept BEFORE DELETE ON client_member
    FOR EACH ROW EXECUTE FUNCTION keep_last_member();

-- 3. The clock only goes forward, and becomes virtual only while nothing was ever booked.
CREATE FUNCTION guard_clock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.offset_seconds < OLD.offset_seconds OR OLD.is_virtual AND NOT NEW.is_virtual THEN
        RAISE EXCEPTION 'the clock only goes forward' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.is_virtual AND NOT OLD.is_virtual
        AND EXISTS (SELECT FROM public.ledger_transaction) THEN
        RAISE EXCEPTION 'a database with bookings keeps real time' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE UPDATE ON clock FOR EACH ROW EXECUTE FUNCTION guard_clock();

-- 4. States move only as their table allows; every move is audited, and told to its client.
--    Arguments: the id's column, and 'feed' where clients may read the move.
CREATE FUNCTION record_move() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    before jsonb := CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) END;
    after jsonb := to_jsonb(NEW);
    event bigint;
BEGIN
    IF NOT EXISTS (
        SELECT FROM allowed_move
        WHERE subject = TG_TABLE_NAME
          AND from_state IS NOT DISTINCT FROM (before ->> 'state')
          AND to_state = after ->> 'state'
    ) THEN
        RAISE EXCEPTION '% may not move from % to %',
            TG_TABLE_NAME, coalesce(before ->> 'state', 'nothing'), after ->> 'state'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'move_not_allowed';
    END IF;
    INSERT INTO audit_event (subject_type, subject_id, action, from_state, to_state, reason)
    VALUES (TG_TABLE_NAME, (after ->> TG_ARGV[0])::uuid, 'moved',
            before ->> 'state', after ->> 'state', after ->> 'state_reason')
    RETURNING id INTO event;
    IF TG_ARGV[1] = 'feed' AND after ->> 'client_id' IS NOT NULL THEN
        INSERT INTO outbox (audit_event_id, client_id) VALUES (event, (after ->> 'client_id')::uuid);
    END IF;
    RETURN NULL;
END
$$;

DO $do$
DECLARE
    name text;
    arguments text;
BEGIN
    FOR name, arguments IN VALUES
        ('audition', '''id'''), ('claim', '''id'', ''feed'''), ('deposit', '''id'''),
        ('job', '''id'', ''feed'''), ('payout', '''id'''), ('payout_run', '''id'''),
        ('performer', '''person_id'''), ('recording', '''id'', ''feed'''),
        ('role', '''id'', ''feed'''), ('submission', '''id'', ''feed'''), ('topup', '''id'''),
        ('withholding', '''id''')
    LOOP
        EXECUTE format('CREATE TRIGGER born AFTER INSERT ON %I FOR EACH ROW'
            ' EXECUTE FUNCTION record_move(%s)', name, arguments);
        EXECUTE format('CREATE TRIGGER moved AFTER UPDATE OF state ON %I FOR EACH ROW'
            ' WHEN (OLD.state IS DISTINCT FROM NEW.state)'
            ' EXECUTE FUNCTION record_move(%s)', name, arguments);
    END LOOP;
END
$do$;

-- A withdrawal is told to the grant's client like a move; why stays between us and the performer.
CREATE FUNCTION record_withdrawal() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    event bigint;
BEGIN
    INSERT INTO audit_event (subject_type, subject_id, action, from_state, to_state)
    VALUES ('consent_grant', NEW.consent_grant_id, 'withdrawn', 'signed', 'withdrawn')
    RETURNING id INTO event;
    INSERT INTO outbox (audit_event_id, client_id)
    SELECT event, client_id FROM consent_grant WHERE id = NEW.consent_grant_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER told AFTER INSERT ON consent_withdrawal
    FOR EACH ROW EXECUTE FUNCTION record_withdrawal();

-- Why a payout waits is said without a move, and gone with the next one: the audit keeps it.
CREATE FUNCTION record_reason() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO audit_event (subject_type, subject_id, action, reason)
    VALUES (TG_TABLE_NAME, NEW.id, 'reason_stated', NEW.state_reason);
    RETURN NULL;
END
$$;
CREATE TRIGGER explained AFTER UPDATE OF state_reason ON payout FOR EACH ROW
    WHEN (OLD.state = NEW.state AND NEW.state_reason IS NOT NULL
        AND OLD.state_reason IS DISTINCT FROM NEW.state_reason)
    EXECUTE FUNCTION record_reason();

-- 5. Audit rows are numbered and stamped by the database: what is booked later is stamped later.
CREATE FUNCTION stamp_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    -- Whatever number the statement brought along.
    NEW.id := nextval(pg_get_serial_sequence('audit_event', 'id'));
    NEW.booked_at := booking_time();
    RETURN NEW;
END
$$;
CREATE TRIGGER stamp BEFORE INSERT ON audit_event FOR EACH ROW EXECUTE FUNCTION stamp_audit();

-- Nothing is signed, withdrawn or decided at another time than its own.
CREATE FUNCTION stamp_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN jsonb_populate_record(NEW, jsonb_build_object(TG_ARGV[0], public.marketplace_now()));
END
$$;
CREATE TRIGGER stamp BEFORE INSERT ON consent_grant
    FOR EACH ROW EXECUTE FUNCTION stamp_column('signed_at');
CREATE TRIGGER stamp BEFORE INSERT ON consent_withdrawal
    FOR EACH ROW EXECUTE FUNCTION stamp_column('withdrawn_at');
CREATE TRIGGER stamp BEFORE INSERT ON pay_decision
    FOR EACH ROW EXECUTE FUNCTION stamp_column('decided_at');

-- 6. A performer's counter is the number of claims they are working on.
CREATE FUNCTION count_live_claims() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    working constant text[] := ARRAY['active', 'in_session', 'retake'];
    was integer := CASE WHEN TG_OP = 'UPDATE' AND OLD.state = ANY (working) THEN 1 ELSE 0 END;
    is_now integer := CASE WHEN NEW.state = ANY (working) THEN 1 ELSE 0 END;
BEGIN
    IF was <> is_now THEN
        UPDATE performer SET live_claims = live_claims + is_now - was
        WHERE person_id = NEW.performer_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER counted AFTER INSERT OR UPDATE OF state ON claim
    FOR EACH ROW EXECUTE FUNCTION count_live_claims();

-- 7. Rates: numbered and stamped here, never backdated, never cut without notice.
CREATE FUNCTION guard_rate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    promised bigint;
    -- In hours: a day is not always 24 of them in a session's time zone.
    notice constant interval := '336 hours';
    -- With the one in force they are the ten that the board shows.
    most_ahead constant integer := 9;
    second timestamptz := date_trunc('second', marketplace_now());
BEGIN
    PERFORM FROM rate_lineage WHERE id = NEW.lineage_id FOR NO KEY UPDATE;
    NEW.announced_at := second;
    NEW.booked_at := booking_time();
    NEW.number := 1 + coalesce((SELECT max(number) FROM rate WHERE lineage_id = NEW.lineage_id), 0);
    IF NEW.number = 1 THEN
        NEW.effective_from := second;
        RETURN NEW;
    END IF;
    NEW.effective_from := date_trunc('second', coalesce(
        NEW.effective_from, second + interval '1 minute'));
    IF NEW.effective_from < second + interval '1 minute' THEN
        RAISE EXCEPTION 'a rate takes effect a minute after its announcement at the earliest'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'rate_backdated';
    END IF;
    IF (
        SELECT count(*) FROM rate
        WHERE lineage_id = NEW.lineage_id AND effective_from > second
    ) >= most_ahead THEN
        RAISE EXCEPTION 'this many rates are announced already'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'rates_ahead';
    END IF;
    -- What whoever works at that moment was promised until now.
    SELECT rate_minor_per_hour INTO promised
    FROM rate
    WHERE lineage_id = NEW.lineage_id AND effective_from <= NEW.effective_from
    ORDER BY effective_from DESC, number DESC
    LIMIT 1;
    IF NEW.rate_minor_per_hour < promised AND NEW.effective_from < second + notice
        -- A rise in front of an announced rate must not make a cut of it.
        OR EXISTS (
            SELECT FROM (
                SELECT rate_minor_per_hour, effective_from, announced_at
                FROM rate
                WHERE lineage_id = NEW.lineage_id AND effective_from > NEW.effective_from
                ORDER BY effective_from, number DESC
                LIMIT 1
            ) AS following
            WHERE following.rate_minor_per_hour < NEW.rate_minor_per_hour
              AND following.effective_from < following.announced_at + notice
        ) THEN
        RAISE EXCEPTION 'a lower rate needs 14 days'' notice'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'rate_cut_needs_notice';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT ON rate FOR EACH ROW EXECUTE FUNCTION guard_rate();

-- The same performers see a client's lineages of one elicitation whose languages overlap, whatever
-- skills they ask for: going from one to a cheaper one would cut their rate, too. This is the highest
-- rate of these, in force or announced, at whose time the lineage pays less; null when it pays as
-- much. A minute from now, because an announcement takes that long. Separated lineages are no part
-- of it.
CREATE FUNCTION paid_for_alike(lineage uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT max(promised.rate_minor_per_hour)
    FROM rate_lineage AS own
    JOIN rate_lineage AS other
        ON other.client_id = own.client_id AND other.currency = own.currency
       AND other.elicitation = own.elicitation AND other.id <> own.id
       AND other.separation = 0 AND own.separation = 0
    CROSS JOIN LATERAL (
        SELECT string_to_array(own.languages, ',') AS wanted,
               string_to_array(other.languages, ',') AS spoken
    ) AS languages
    JOIN rate AS promised ON promised.lineage_id = other.id
    CROSS JOIN LATERAL (
        SELECT greatest(promised.effective_from, marketplace_now() + interval '1 minute') AS moment
    ) AS taken
    WHERE own.id = lineage
      AND (speaks_one_of(spoken, wanted) OR speaks_one_of(wanted, spoken))
      AND NOT EXISTS (
          SELECT FROM rate AS following
          WHERE following.lineage_id = other.id AND following.effective_from <= moment
            AND (following.effective_from, following.number)
              > (promised.effective_from, promised.number)
      )
      AND promised.rate_minor_per_hour > coalesce((
          SELECT rate_minor_per_hour FROM rate
          WHERE rate.lineage_id = own.id AND rate.effective_from <= moment
          ORDER BY rate.effective_from DESC, rate.number DESC
          LIMIT 1
      ), 0)
$$;

CREATE FUNCTION guard_first_rate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    paid bigint := paid_for_alike(NEW.lineage_id);
BEGIN
    IF paid IS NOT NULL THEN
        RAISE EXCEPTION 'the same performers are paid % for work alike', paid
            USING ERRCODE = 'check_violation', CONSTRAINT = 'rate_below_alike', DETAIL = paid::text;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER guard_first AFTER INSERT ON rate
    FOR EACH ROW WHEN (NEW.number = 1) EXECUTE FUNCTION guard_first_rate();

-- A claim is made now, at the rate in force now, within the share that one person may fill.
CREATE FUNCTION guard_claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    -- Whoever claims for the same performer waits here; what is read below is what they left.
    PERFORM FROM performer WHERE person_id = NEW.performer_id FOR NO KEY UPDATE;
    IF (
        SELECT count(*) FROM claim
        WHERE performer_id = NEW.performer_id AND job_id = NEW.job_id
          AND state NOT IN ('released', 'expired')
    ) >= (SELECT most_roles_of_one FROM job WHERE id = NEW.job_id) THEN
        RAISE EXCEPTION 'one person fills no more of this job''s roles'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'claim_speaker_share';
    END IF;
    IF NEW.claimed_at <> date_trunc('second', marketplace_now()) OR NEW.rate_id IS DISTINCT FROM (
        SELECT id FROM rate
        WHERE lineage_id = NEW.lineage_id AND effective_from <= NEW.claimed_at
        ORDER BY effective_from DESC, number DESC
        LIMIT 1
    ) THEN
        RAISE EXCEPTION 'a claim locks the rate in force at its moment'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'claim_rate_in_force';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT ON claim FOR EACH ROW EXECUTE FUNCTION guard_claim();

-- 8. Time: whole seconds, within the claim, never in the future, never after the pay is decided.
CREATE FUNCTION guard_time_entry() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    second timestamptz := present_second();
    claimed timestamptz;
    retakes integer;
BEGIN
    SELECT claimed_at, least(retakes_granted, retakes_max) INTO claimed, retakes
    FROM claim JOIN role ON role.id = claim.role_id
    WHERE claim.id = NEW.claim_id;
    IF NEW.started_at < claimed OR NEW.started_at > second OR NEW.ended_at > second
        OR NEW.heartbeat_at > second
        OR date_trunc('second', NEW.started_at) <> NEW.started_at
        OR date_trunc('second', NEW.ended_at) <> NEW.ended_at THEN
        RAISE EXCEPTION 'a time entry lies within its claim and the past, in whole seconds'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'time_entry_stamps';
    END IF;
    IF EXISTS (SELECT FROM pay_decision WHERE claim_id = NEW.claim_id) THEN
        RAISE EXCEPTION 'the pay of this claim is decided'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'time_entry_decided';
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.retake_number := CASE NEW.activity WHEN 'retake' THEN retakes END;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON time_entry
    FOR EACH ROW EXECUTE FUNCTION guard_time_entry();

-- A claim's caps: on preparation, on the performance, and on each retake by itself. What runs counts
-- to where it ends at the latest, so that no end can go over.
CREATE FUNCTION time_is_over_cap(checked uuid) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (
        SELECT FROM (
            SELECT activity IN ('brief', 'prep', 'wait') AS preparing, retake_number,
                   coalesce(ended_at, ends_by) - started_at AS lasts,
                   prep_seconds_cap, perform_seconds_cap
            FROM time_entry
            JOIN claim ON claim.id = time_entry.claim_id
            JOIN role ON role.id = claim.role_id
            WHERE time_entry.claim_id = checked
        ) AS entry
        GROUP BY preparing, retake_number, prep_seconds_cap, perform_seconds_cap
        HAVING extract(epoch FROM sum(lasts))
            > CASE WHEN preparing THEN prep_seconds_cap ELSE perform_seconds_cap END
    )
$$;

CREATE FUNCTION guard_time_caps() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    -- Whoever adds time to the same claim waits here; what is read below is what they left. A
    -- transaction that keeps to an older snapshot would not read it.
    PERFORM FROM claim WHERE id = NEW.claim_id FOR NO KEY UPDATE;
    IF current_setting('transaction_isolation') <> 'read committed'
        OR time_is_over_cap(NEW.claim_id) THEN
        RAISE EXCEPTION 'claim % has no such time left', NEW.claim_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'time_entry_cap';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER capped AFTER INSERT ON time_entry
    FOR EACH ROW EXECUTE FUNCTION guard_time_caps();

-- 9. Pay: the seconds of a decision are those of the ended claim's entries, all of them, and not
--    more than its role allows.
CREATE FUNCTION guard_pay_decision() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    worked bigint;
    running bigint;
    claim_state text;
BEGIN
    SELECT state INTO claim_state FROM claim WHERE id = NEW.claim_id;
    SELECT coalesce(extract(epoch FROM sum(ended_at - started_at))::bigint, 0),
           count(*) FILTER (WHERE ended_at IS NULL)
    INTO worked, running
    FROM time_entry WHERE claim_id = NEW.claim_id;
    IF running > 0 OR worked <> NEW.seconds OR time_is_over_cap(NEW.claim_id)
        OR claim_state NOT IN ('settled', 'released', 'expired') THEN
        RAISE EXCEPTION 'claim % (%) has % ended seconds and % running entries, not % seconds',
            NEW.claim_id, claim_state, worked, running, NEW.seconds
            USING ERRCODE = 'check_violation', CONSTRAINT = 'pay_decision_seconds';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT ON pay_decision
    FOR EACH ROW EXECUTE FUNCTION guard_pay_decision();

-- An audition begins with an offer at the platform's own rate in force; its time is counted as it
-- passes, never afterwards; once it is paid, only the reviewer's word is missing.
CREATE FUNCTION guard_audition() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    second timestamptz := present_second();
    still_moving constant text[] :=
        ARRAY['state', 'state_reason', 'due_at', 'decided_by', 'ledger_transaction_id'];
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.offered_at := marketplace_now();
        IF NEW.worked_seconds <> 0
            OR num_nonnulls(NEW.started_at, NEW.seen_at, NEW.ended_at, NEW.paid_seconds) > 0
            OR NEW.rate_id IS DISTINCT FROM (
                SELECT rate.id FROM rate JOIN rate_lineage ON rate_lineage.id = rate.lineage_id
                WHERE rate.lineage_id = NEW.lineage_id AND client_id IS NULL
                  AND effective_from <= NEW.offered_at
                ORDER BY effective_from DESC, number DESC
                LIMIT 1
            ) THEN
            RAISE EXCEPTION 'an audition is offered without time, at the audition rate in force'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'audition_offered';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.paid_seconds IS NOT NULL AND to_jsonb(NEW) - still_moving <> to_jsonb(OLD) - still_moving
    THEN
        RAISE EXCEPTION 'audition % is paid and stays as it is', OLD.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'audition_paid';
    END IF;
    IF (OLD.started_at IS NULL AND NEW.started_at <> date_trunc('second', marketplace_now()))
        OR NEW.seen_at > second OR NEW.ended_at > second
        OR NEW.worked_seconds - OLD.worked_seconds
            NOT BETWEEN 0 AND coalesce(extract(epoch FROM NEW.seen_at - OLD.seen_at), 0) THEN
        RAISE EXCEPTION 'the time of audition % counts as it passes', OLD.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'audition_time';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON audition
    FOR EACH ROW EXECUTE FUNCTION guard_audition();

-- 10. The ledger. A header remembers the database transaction that wrote it …
CREATE FUNCTION stamp_ledger_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.booked_at := booking_time();
    NEW.accounting_date := (NEW.booked_at AT TIME ZONE 'UTC')::date;
    NEW.written_by_xid := pg_current_xact_id()::text;
    NEW.written_at := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER stamp BEFORE INSERT ON ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION stamp_ledger_transaction();

-- … so that no entry joins a committed one, and keeps the guarded balances.
CREATE FUNCTION apply_ledger_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added
        JOIN ledger_transaction AS header ON header.id = added.transaction_id
        WHERE header.written_by_xid <> pg_current_xact_id()::text OR header.written_at <> now()
    ) THEN
        RAISE EXCEPTION 'an entry cannot join a committed ledger transaction'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_committed';
    END IF;
    INSERT INTO account_balance (account_id, balance_minor)
    SELECT DISTINCT added.account_id, 0
    FROM added JOIN account ON account.id = added.account_id
    WHERE account.kind IN ('client_wallet', 'job_reserve')
    ORDER BY added.account_id
    ON CONFLICT DO NOTHING;
    -- One order of locks for everybody: wallets first, then reserves, each by id.
    PERFORM FROM account_balance
    JOIN account ON account.id = account_balance.account_id
    WHERE account_balance.account_id IN (SELECT account_id FROM added)
    ORDER BY account.kind <> 'client_wallet', account.id
    FOR NO KEY UPDATE OF account_balance;
    UPDATE account_balance
    SET balance_minor = balance_minor - change.amount_minor
    FROM (SELECT account_id, sum(amount_minor) AS amount_minor FROM added GROUP BY account_id)
        AS change
    WHERE account_balance.account_id = change.account_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER applied AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION apply_ledger_entries();

-- A transaction balances. Checked from both tables: a header alone could be checked too early
-- (SET CONSTRAINTS ALL IMMEDIATE), entries alone would let an empty header pass.
CREATE FUNCTION check_ledger_balance() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    checked uuid := (to_jsonb(NEW) ->> TG_ARGV[0])::uuid;
    total numeric;
    entries bigint;
BEGIN
    SELECT sum(amount_minor), count(*) INTO total, entries
    FROM ledger_entry WHERE transaction_id = checked;
    IF entries < 2 OR total <> 0 THEN
        RAISE EXCEPTION 'ledger transaction % has % entries that sum to %', checked, entries, total
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_balanced';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER balanced AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_ledger_balance('id');
CREATE CONSTRAINT TRIGGER balanced AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION check_ledger_balance('transaction_id');

-- Nobody earns but by a decision or an audition, whose figures are booked to the cent: a claim is
-- paid out of its own reserve (its role's, or that of an ended claim), an audition by the platform.
CREATE FUNCTION check_earning() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    earning ledger_transaction%ROWTYPE;
BEGIN
    SELECT * INTO earning FROM ledger_transaction WHERE id = NEW.transaction_id;
    IF earning.kind NOT IN ('claim_paid', 'audition_paid') THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        WITH source AS (
            SELECT decision.performer_id, pay_minor, fee_minor, 'job_reserve' AS payer,
                   coalesce(claim.reservation_id, role.reservation_id) AS payer_id
            FROM pay_decision AS decision
            JOIN claim ON claim.id = decision.claim_id
            JOIN role ON role.id = claim.role_id
            WHERE decision.id = earning.source_id AND decision.ledger_transaction_id = earning.id
              AND decision.currency = earning.currency AND earning.kind = 'claim_paid'
            UNION ALL
            SELECT performer_id, pay_minor, 0, 'platform_expense', NULL
            FROM audition
            WHERE id = earning.source_id AND ledger_transaction_id = earning.id
              AND currency = earning.currency AND earning.kind = 'audition_paid'
        ), due AS (
            SELECT 'performer_payable', performer_id, -pay_minor FROM source
            UNION ALL SELECT 'platform_fees', NULL, -fee_minor FROM source WHERE fee_minor > 0
            UNION ALL SELECT payer, payer_id, pay_minor + fee_minor FROM source
        ), booked AS (
            SELECT account.kind, account.owner_id, entry.amount_minor
            FROM ledger_entry AS entry JOIN account ON account.id = entry.account_id
            WHERE entry.transaction_id = earning.id
        )
        (TABLE due EXCEPT ALL TABLE booked) UNION ALL (TABLE booked EXCEPT ALL TABLE due)
    ) THEN
        RAISE EXCEPTION 'ledger transaction % (%) is not what its source % says',
            earning.id, earning.kind, earning.source_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_earned';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER earned AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_earning();

-- 11. Payouts. Lines: in a draft only, each for the whole of one earning of that very performer.
CREATE FUNCTION check_payout_lines() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
        WHERE payout.state <> 'draft'
           OR entry.amount_minor <> -added.amount_minor
           OR account.kind <> 'performer_payable'
           OR account.owner_id <> payout.performer_id
           OR account.currency <> payout.currency
           OR coalesce(decision.performer_id, audition.performer_id)
               IS DISTINCT FROM payout.performer_id
           OR coalesce(decision.pay_minor, audition.pay_minor) IS DISTINCT FROM added.amount_minor
    ) THEN
        RAISE EXCEPTION 'a payout line stands for one whole earning of its performer, in a draft'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'payout_line_earning';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER checked AFTER INSERT ON payout_line
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION check_payout_lines();

-- A payout is the sum of its lines. Released lines leave a payout that is released itself.
CREATE FUNCTION check_payout_amount() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    checked uuid := (to_jsonb(NEW) ->> TG_ARGV[0])::uuid;
    paid payout%ROWTYPE;
    total numeric;
    released bigint;
BEGIN
    SELECT * INTO paid FROM payout WHERE id = checked;
    SELECT sum(amount_minor), count(released_at) INTO total, released
    FROM payout_line WHERE payout_id = checked;
    IF total IS DISTINCT FROM paid.amount_minor OR (released > 0 AND paid.state <> 'released') THEN
        RAISE EXCEPTION 'payout % of % has lines of %, % of them released',
            checked, paid.amount_minor, total, released
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'payout_amount';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER amount AFTER INSERT ON payout
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_payout_amount('id');
CREATE CONSTRAINT TRIGGER amount AFTER INSERT OR UPDATE ON payout_line
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_payout_amount('payout_id');

-- A payout is drafted and approved with its run, and follows what its attempts prove.
CREATE FUNCTION guard_payout() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    run_is text := (SELECT state FROM payout_run WHERE id = NEW.run_id);
    in_flight boolean := EXISTS (
        SELECT FROM payout_attempt WHERE payout_id = NEW.id AND outcome IS NULL);
BEGIN
    IF (CASE NEW.state
        WHEN 'draft' THEN run_is = 'draft'
        WHEN 'approved' THEN run_is = 'approved' AND NOT in_flight
        WHEN 'sending' THEN in_flight
        WHEN 'refused' THEN NOT in_flight
        WHEN 'paid' THEN EXISTS (
            SELECT FROM payout_attempt
            WHERE payout_id = NEW.id AND outcome = 'succeeded' AND transfer_id = NEW.transfer_id)
        ELSE true
    END) IS NOT TRUE THEN
        RAISE EXCEPTION 'payout % may not be %: its run is %, an attempt in flight: %',
            NEW.id, NEW.state, run_is, in_flight
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_state_proven';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER proven BEFORE INSERT OR UPDATE OF state ON payout
    FOR EACH ROW EXECUTE FUNCTION guard_payout();

-- What Stripe is asked is what was approved, under the one key of its number.
CREATE FUNCTION guard_payout_attempt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM payout
        WHERE id = NEW.payout_id
          AND NEW.idempotency_key = format('payout-%s-attempt-%s', id, NEW.number)
          AND NEW.request = jsonb_build_object(
              'amount_minor', amount_minor, 'currency', currency, 'destination', destination,
              'transfer_group', format('payout-%s', id),
              'metadata', jsonb_build_object('payout_id', id, 'attempt', NEW.number::text))
    ) THEN
        RAISE EXCEPTION 'attempt % of payout % asks for something else', NEW.number, NEW.payout_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_attempt_request';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT ON payout_attempt
    FOR EACH ROW EXECUTE FUNCTION guard_payout_attempt();

-- 12. The moves themselves, as the models' tables name them (a test compares the two).
INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('audition', NULL, 'offered'),
    ('audition', 'offered', 'failed'),
    ('audition', 'offered', 'started'),
    ('audition', 'started', 'failed'),
    ('audition', 'started', 'submitted'),
    ('audition', 'submitted', 'failed'),
    ('audition', 'submitted', 'passed'),
    ('claim', NULL, 'active'),
    ('claim', 'active', 'expired'),
    ('claim', 'active', 'in_session'),
    ('claim', 'active', 'released'),
    ('claim', 'in_session', 'expired'),
    ('claim', 'in_session', 'released'),
    ('claim', 'in_session', 'submitted'),
    ('claim', 'submitted', 'retake'),
    ('claim', 'submitted', 'settled'),
    ('claim', 'retake', 'expired'),
    ('claim', 'retake', 'released'),
    ('claim', 'retake', 'submitted'),
    ('deposit', NULL, 'requested'),
    ('deposit', 'requested', 'awaiting_payment'),
    ('deposit', 'requested', 'expired'),
    ('deposit', 'awaiting_payment', 'credited'),
    ('deposit', 'awaiting_payment', 'expired'),
    ('deposit', 'credited', 'available'),
    ('job', NULL, 'draft'),
    ('job', 'draft', 'cancelled'),
    ('job', 'draft', 'open'),
    ('job', 'open', 'closing'),
    ('job', 'open', 'paused'),
    ('job', 'paused', 'closing'),
    ('job', 'paused', 'open'),
    ('job', 'closing', 'closed'),
    ('payout', NULL, 'draft'),
    ('payout', 'draft', 'approved'),
    ('payout', 'draft', 'released'),
    ('payout', 'approved', 'held'),
    ('payout', 'approved', 'released'),
    ('payout', 'approved', 'sending'),
    ('payout', 'held', 'approved'),
    ('payout', 'held', 'released'),
    ('payout', 'sending', 'paid'),
    ('payout', 'sending', 'refused'),
    ('payout', 'sending', 'unknown'),
    ('payout', 'unknown', 'paid'),
    ('payout', 'unknown', 'refused'),
    ('payout', 'refused', 'approved'),
    ('payout', 'refused', 'held'),
    ('payout', 'refused', 'released'),
    ('payout_run', NULL, 'draft'),
    ('payout_run', 'draft', 'approved'),
    ('payout_run', 'draft', 'discarded'),
    ('performer', NULL, 'applied'),
    ('performer', 'applied', 'auditioning'),
    ('performer', 'applied', 'declined'),
    ('performer', 'auditioning', 'declined'),
    ('performer', 'auditioning', 'vetted'),
    ('performer', 'vetted', 'suspended'),
    ('performer', 'suspended', 'vetted'),
    ('recording', NULL, 'uploading'),
    ('recording', 'uploading', 'checking'),
    ('recording', 'uploading', 'unreadable'),
    ('recording', 'checking', 'look'),
    ('recording', 'checking', 'passed'),
    ('recording', 'checking', 'retake'),
    ('recording', 'checking', 'unreadable'),
    ('recording', 'look', 'purged'),
    ('recording', 'passed', 'purged'),
    ('recording', 'retake', 'purged'),
    ('role', NULL, 'unfunded'),
    ('role', 'unfunded', 'open'),
    ('role', 'unfunded', 'withdrawn'),
    ('role', 'open', 'held'),
    ('role', 'open', 'unfunded'),
    ('role', 'open', 'withdrawn'),
    ('role', 'held', 'done'),
    ('role', 'held', 'open'),
    ('role', 'held', 'unfunded'),
    ('role', 'held', 'withdrawn'),
    ('submission', NULL, 'checking'),
    ('submission', 'checking', 'in_review'),
    ('submission', 'checking', 'refused'),
    ('submission', 'checking', 'retake'),
    ('submission', 'in_review', 'accepted'),
    ('submission', 'in_review', 'refused'),
    ('submission', 'in_review', 'retake'),
    ('topup', NULL, 'requested'),
    ('topup', 'requested', 'failed'),
    ('topup', 'requested', 'pending'),
    ('topup', 'pending', 'failed'),
    ('topup', 'pending', 'succeeded'),
    ('withholding', NULL, 'proposed'),
    ('withholding', 'proposed', 'confirmed'),
    ('withholding', 'proposed', 'rejected');
