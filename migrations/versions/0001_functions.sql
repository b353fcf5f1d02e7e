-- Time, ids and arithmetic that tables and statements refer to.

-- The database's time plus an offset that only the owner can raise (demo and tests).
CREATE TABLE clock (
    one integer NOT NULL CONSTRAINT pk_clock PRIMARY KEY,
    is_virtual boolean NOT NULL,
    offset_seconds bigint NOT NULL,
    CONSTRAINT ck_clock_single_row CHECK (one = 1),
    CONSTRAINT ck_clock_real_time_has_no_offset CHECK (is_virtual OR offset_seconds = 0)
);
INSERT INTO clock VALUES (1, false, 0);

CREATE FUNCTION marketplace_now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT now() + (SELECT offset_seconds FROM public.clock) * interval '1 second'
$$;

-- The moment it is, whenever the transaction began: who waited for a lock is not earlier for that.
CREATE FUNCTION present_moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT clock_timestamp() + (SELECT offset_seconds FROM public.clock) * interval '1 second'
$$;

CREATE FUNCTION present_second() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT date_trunc('second', public.present_moment())
$$;

-- Held shared by every transaction that books something, until it commits; a report that waits for
-- those who hold it now knows that nothing stamped earlier is still on its way.
CREATE FUNCTION booking_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 7203001::bigint $$;

-- When the transaction that a server process is in booked first. A table, for a setting could be
-- changed by the application's login; unlogged, for nothing in it outlives its transaction.
CREATE UNLOGGED TABLE booking (
    backend integer NOT NULL,
    xid text NOT NULL,
    began_at timestamptz NOT NULL,
    booked_at timestamptz NOT NULL,
    CONSTRAINT pk_booking PRIMARY KEY (backend)
);

-- One stamp for all that a transaction books, taken while the lock is held: no report can stand
-- between two of its rows. A savepoint that is rolled back takes lock and stamp with it.
CREATE FUNCTION booking_time() RETURNS timestamptz LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    stamp timestamptz;
BEGIN
    -- xids start anew after a restore, so the transaction's time is compared as well.
    SELECT booked_at INTO stamp FROM booking
    WHERE backend = pg_backend_pid() AND xid = pg_current_xact_id()::text AND began_at = now();
    IF stamp IS NULL THEN
        PERFORM pg_advisory_xact_lock_shared(booking_lock());
        INSERT INTO booking (backend, xid, began_at, booked_at)
        VALUES (pg_backend_pid(), pg_current_xact_id()::text, now(), present_moment())
        ON CONFLICT (backend) DO UPDATE
        SET xid = excluded.xid, began_at = excluded.began_at, booked_at = excluded.booked_at
        RETURNING booked_at INTO stamp;
    END IF;
    RETURN stamp;
END
$$;

-- Who acts in this transaction; null (which the audit refuses) when nobody said so.
CREATE FUNCTION acting() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('marketplace.actor', true), '')
$$;

CREATE FUNCTION acting_request() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('marketplace.request_id', true), '')
$$;

-- PostgreSQL 18 has it; older ones get one of the same name (RFC 9562: 48 bits of milliseconds).
DO $do$
BEGIN
    IF current_setting('server_version_num')::int < 180000 THEN
        CREATE FUNCTION uuidv7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
            SELECT encode(
                set_bit(set_bit(overlay(
                    uuid_send(gen_random_uuid())
                    PLACING substring(int8send(floor(
                        extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6
                ), 52, 1), 53, 1), 'hex')::uuid
        $$;
    END IF;
END
$do$;

-- A range of one id, so that an exclusion constraint can say "the same performer" without an
-- extension.
CREATE TYPE uuidrange AS RANGE (subtype = uuid);

-- An account's id follows from what it is: no look-up, no race to open it.
CREATE FUNCTION account_id(kind text, owner_id uuid, currency text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT md5(kind || '/' || coalesce(owner_id::text, '') || '/' || currency)::uuid
$$;

-- Half up in integers, once per claim; the same as marketplace/shared/money.py.
CREATE FUNCTION pay_minor(seconds bigint, rate_minor_per_hour bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT (2 * seconds * rate_minor_per_hour + 3600) / 7200 $$;

CREATE FUNCTION fee_minor(pay bigint, fee_basis_points bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT (2 * pay * fee_basis_points + 10000) / 20000 $$;

CREATE FUNCTION cost_minor(seconds bigint, rate_minor_per_hour bigint, fee_basis_points bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT pay_minor(seconds, rate_minor_per_hour)
         + fee_minor(pay_minor(seconds, rate_minor_per_hour), fee_basis_points)
$$;

-- Exact to two decimals, half away from zero; null for what follows nothing.
CREATE FUNCTION change_percent(before bigint, after bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT round((after - before) * 100::numeric / before, 2)::text $$;

-- A tag and what it is a variety of: of zh-Hant-TW also zh-Hant and zh.
CREATE FUNCTION with_parents(tags text[]) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(array_to_string(parts[:size], '-'))
    FROM unnest(tags) AS tag
    CROSS JOIN string_to_array(tag, '-') AS parts
    CROSS JOIN generate_series(1, cardinality(parts)) AS size
$$;

-- en-US speaks en; en does not speak en-US.
CREATE FUNCTION speaks_one_of(spoken text[], wanted text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$ SELECT wanted && with_parents(spoken) $$;

-- Whole seconds, as the API writes them.
CREATE FUNCTION api_time(at timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

-- Payout runs are drafted on Mondays at 06:00 UTC.
CREATE FUNCTION last_run_at(at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT (date_trunc('week', at AT TIME ZONE 'UTC' - interval '6 hours') + interval '6 hours')
        AT TIME ZONE 'UTC'
$$;

CREATE FUNCTION next_run_at(at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT last_run_at(at) + interval '168 hours'
$$;

-- The promise on the board: the first run after a take handed in at the deadline is decided by
-- itself (or, with a short review, after an expired claim is: 72 h; five minutes for the sweeps),
-- and two days for finance to approve and send it.
CREATE FUNCTION pay_by(deadline timestamptz, review_seconds bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT next_run_at(
        deadline + greatest(review_seconds, 259200) * interval '1 second' + interval '5 minutes'
    ) + interval '48 hours'
$$;
