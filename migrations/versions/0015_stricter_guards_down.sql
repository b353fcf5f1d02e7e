CREATE OR REPLACE FUNCTION stamp_destination() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.destination_changed_at := CASE
        WHEN TG_OP = 'UPDATE' AND OLD.stripe_account_id <> NEW.stripe_account_id
            THEN marketplace_now()
        WHEN TG_OP = 'UPDATE' THEN OLD.destination_changed_at
    END;
    RETURN NEW;
END
$$;
