-- Every entry of a period, in the order it was booked; debits and credits are both positive.
SELECT header.accounting_date, header.id AS transaction_id, header.kind,
       header.source_type, header.source_id, account.kind AS account, account.owner_id AS party_id,
       entry.currency,
       CASE WHEN entry.amount_minor > 0 THEN entry.amount_minor END AS debit_minor,
       CASE WHEN entry.amount_minor < 0 THEN -entry.amount_minor END AS credit_minor
FROM ledger_transaction AS header
JOIN ledger_entry AS entry ON entry.transaction_id = header.id
JOIN account ON account.id = entry.account_id
WHERE header.booked_at >= :start AND header.booked_at < :end
ORDER BY header.booked_at, header.id, entry.amount_minor DESC, entry.id
