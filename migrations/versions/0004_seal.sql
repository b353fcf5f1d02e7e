-- The seal: a chain of hashes over what is only ever inserted.

-- Rows without a stamp under the booking lock get one. `now()` fills the old rows without writing
-- any of them; only then the default becomes what new rows take.
DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'rate_lineage', 'minimum_rate', 'consent_grant', 'consent_withdrawal'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN booked_at timestamptz DEFAULT now() NOT NULL', name);
        EXECUTE format('ALTER TABLE %I ALTER COLUMN booked_at SET DEFAULT booking_time()', name);
    END LOOP;
END
$do$;

CREATE FUNCTION stamp_booking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.booked_at := public.booking_time();
    RETURN NEW;
END
$$;

CREATE TABLE seal (
    number bigint NOT NULL,
    sealed_to timestamptz NOT NULL,
    row_keys text[] NOT NULL,
    row_hashes bytea NOT NULL,
    previous_hash text,
    hash text NOT NULL,
    CONSTRAINT pk_seal PRIMARY KEY (number),
    CONSTRAINT uq_seal_hash UNIQUE (hash),
    CONSTRAINT ck_seal_follows_one CHECK ((number = 1) = (previous_hash IS NULL)),
    CONSTRAINT ck_seal_hash_of_each CHECK (cardinality(row_keys) > 0 AND octet_length(row_hashes) = 32 * cardinality(row_keys)),
    CONSTRAINT fk_seal_previous_hash FOREIGN KEY(previous_hash) REFERENCES seal (hash)
);

DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'rate_lineage', 'minimum_rate', 'consent_grant', 'consent_withdrawal'
    ] LOOP
        EXECUTE format('CREATE TRIGGER stamp_booking BEFORE INSERT ON %I FOR EACH ROW'
            ' EXECUTE FUNCTION stamp_booking()', name);
    END LOOP;
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON seal
        FOR EACH ROW EXECUTE FUNCTION refuse_change();
    CREATE TRIGGER never_emptied BEFORE TRUNCATE ON seal
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
END
$do$;
