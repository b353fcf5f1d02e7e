-- As it was before disputes.
CREATE OR REPLACE FUNCTION guard_refund() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
