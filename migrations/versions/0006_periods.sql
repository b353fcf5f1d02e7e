-- Months of the books, closed by two people.

CREATE TABLE accounting_period (
    id uuid NOT NULL,
    first_day date NOT NULL,
    state text NOT NULL,
    state_reason text,
    closing_by uuid,
    closing_at timestamptz,
    closed_by uuid,
    closed_at timestamptz,
    findings jsonb,
    created_at timestamptz DEFAULT marketplace_now() NOT NULL,
    CONSTRAINT pk_accounting_period PRIMARY KEY (id),
    CONSTRAINT uq_accounting_period_first_day UNIQUE (first_day),
    CONSTRAINT ck_accounting_period_whole_month CHECK (first_day = date_trunc('month', first_day)::date),
    CONSTRAINT ck_accounting_period_second_person CHECK (closed_by <> closing_by),
    CONSTRAINT ck_accounting_period_closed_by_somebody CHECK ((state = 'closed') = (closed_by IS NOT NULL)),
    CONSTRAINT fk_accounting_period_closing_by FOREIGN KEY(closing_by) REFERENCES person (id),
    CONSTRAINT fk_accounting_period_closed_by FOREIGN KEY(closed_by) REFERENCES person (id)
);

INSERT INTO allowed_move (subject, from_state, to_state) VALUES
    ('accounting_period', NULL, 'open'),
    ('accounting_period', 'open', 'closing'),
    ('accounting_period', 'closing', 'open'),
    ('accounting_period', 'closing', 'closed');

CREATE TRIGGER born AFTER INSERT ON accounting_period FOR EACH ROW
    EXECUTE FUNCTION record_move('id');
CREATE TRIGGER moved AFTER UPDATE OF state ON accounting_period FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_move('id');
CREATE TRIGGER final BEFORE UPDATE ON accounting_period
    FOR EACH ROW EXECUTE FUNCTION refuse_change_when_final('closed_at');

-- Bookings are stamped with the moment they are made, so a closed month gets none: unless the
-- system's clock is set back.
CREATE FUNCTION guard_closed_period() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM public.accounting_period
        WHERE first_day = date_trunc('month', NEW.accounting_date)::date AND state = 'closed'
    ) THEN
        RAISE EXCEPTION 'the books of % are closed', to_char(NEW.accounting_date, 'YYYY-MM')
            USING ERRCODE = 'check_violation', CONSTRAINT = 'period_closed';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER guard_closed_period AFTER INSERT ON ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION guard_closed_period();
