-- An account that was taken away and comes back as another one has changed, too.
CREATE OR REPLACE FUNCTION stamp_destination() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.destination_changed_at := CASE
        WHEN TG_OP = 'INSERT' THEN NULL
        WHEN OLD.stripe_account_id IS NOT DISTINCT FROM NEW.stripe_account_id
            OR (OLD.stripe_account_id IS NULL AND OLD.destination_changed_at IS NULL)
            THEN OLD.destination_changed_at
        ELSE marketplace_now()
    END;
    RETURN NEW;
END
$$;
