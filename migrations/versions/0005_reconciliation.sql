-- Stripe's own books, line by line.

CREATE TABLE stripe_line (
    id text NOT NULL,
    type text NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    fee_minor bigint NOT NULL,
    net_minor bigint NOT NULL,
    source_id text,
    description text,
    created_at timestamptz NOT NULL,
    available_on timestamptz NOT NULL,
    booked_at timestamptz DEFAULT booking_time() NOT NULL,
    CONSTRAINT pk_stripe_line PRIMARY KEY (id),
    CONSTRAINT ck_stripe_line_adds_up CHECK (amount_minor = fee_minor + net_minor)
);
CREATE INDEX ix_stripe_line_created_at ON stripe_line (created_at, id);

CREATE TABLE line_mark (
    one integer NOT NULL,
    read_to timestamptz NOT NULL,
    read_at timestamptz NOT NULL,
    CONSTRAINT pk_line_mark PRIMARY KEY (one),
    CONSTRAINT ck_line_mark_single_row CHECK (one = 1)
);

CREATE TRIGGER stamp_booking BEFORE INSERT ON stripe_line
    FOR EACH ROW EXECUTE FUNCTION stamp_booking();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON stripe_line
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON stripe_line
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
