-- A run of one payout, exactly as one was that was given up: of the same earnings, to the same account.
WITH given_up AS (
    SELECT * FROM payout WHERE id = :payout
), run AS (
    INSERT INTO payout_run (id, currency, state, cut_off_at, prepared_by)
    SELECT :run, currency, 'draft', (
        SELECT max(earning.booked_at)
        FROM payout_line AS line
        JOIN ledger_entry AS entry ON entry.id = line.ledger_entry_id
        JOIN ledger_transaction AS earning ON earning.id = entry.transaction_id
        WHERE line.payout_id = given_up.id
    ), :prepared_by
    FROM given_up
    RETURNING id
), again AS (
    INSERT INTO payout (id, run_id, performer_id, currency, amount_minor, destination, state)
    SELECT uuidv7(), run.id, performer_id, currency, amount_minor, destination, 'draft'
    FROM given_up CROSS JOIN run
    RETURNING id
)
INSERT INTO payout_line (id, payout_id, ledger_entry_id, amount_minor)
SELECT uuidv7(), again.id, line.ledger_entry_id, line.amount_minor
FROM again JOIN payout_line AS line ON line.payout_id = :payout
