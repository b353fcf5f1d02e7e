-- Append balanced transactions and their entries; accounts open themselves at first use.
-- :headers and :lines are JSON arrays; the guards of the ledger stand in the migrations.
WITH header AS (
    SELECT *
    FROM jsonb_to_recordset(CAST(:headers AS jsonb)) AS given (
        id uuid, kind text, source_type text, source_id uuid, currency text, occurred_at timestamptz
    )
), line AS (
    SELECT account_id(kind, owner_id, currency) AS account_id, *
    FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS given (
        transaction_id uuid, kind text, owner_id uuid, currency text, amount_minor bigint
    )
), opened AS (
    INSERT INTO account (id, kind, owner_id, currency)
    SELECT DISTINCT account_id, kind, owner_id, currency FROM line ORDER BY account_id
    ON CONFLICT DO NOTHING
), booked AS (
    INSERT INTO ledger_transaction
        (id, kind, source_type, source_id, currency, occurred_at)
    SELECT id, kind, source_type, source_id, currency, coalesce(occurred_at, marketplace_now())
    FROM header
)
INSERT INTO ledger_entry (transaction_id, account_id, currency, amount_minor)
SELECT transaction_id, account_id, currency, amount_minor FROM line
