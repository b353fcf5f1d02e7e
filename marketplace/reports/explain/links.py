"""Where each row leads: down towards the seconds and the rate, up towards Stripe."""

from collections.abc import Callable
from dataclasses import dataclass

from marketplace.ledger.models import SOURCE_TABLES, TransactionKind
from marketplace.payouts.models import PAID_STATES
from marketplace.reports.explain.nodes import Row


def always(_row: Row) -> bool:
    return True


def never(_row: Row) -> bool:
    return False


@dataclass(frozen=True)
class Link:
    """Rows of `table` whose `column` holds this row's `own` value."""

    table: str
    column: str
    own: str
    # Whether this row must lead somewhere by it.
    required: Callable[[Row], bool] = never
    # Whether this row has the link at all.
    when: Callable[[Row], bool] = always
    # Whether the rows are in the tree; if not, this row is only compared with them.
    shown: bool = True


def _source(table: str) -> Link:
    return Link(
        table, "id", "source_id", required=always, when=lambda row: row["source_type"] == table
    )


# What moves our balance at Stripe: a line of Stripe's own books stands behind each. Deposits and
# top-ups are booked only with it; a transfer is booked even if Stripe did not name its line, and is
# incomplete then.
AT_STRIPE = {
    TransactionKind.DEPOSIT_CREDITED,
    TransactionKind.TOPUP_SUCCEEDED,
    TransactionKind.TRANSFER_CONFIRMED,
    TransactionKind.WITHDRAWAL_CONFIRMED,
    TransactionKind.WITHDRAWAL_RETURNED,
    TransactionKind.STRIPE_FEE_BOOKED,
    TransactionKind.CAPITAL_BOOKED,
    TransactionKind.REFUND_CONFIRMED,
    TransactionKind.REFUND_RETURNED,
    TransactionKind.DISPUTE_OPENED,
    TransactionKind.DISPUTE_WON,
    TransactionKind.TRANSFER_REVERSED,
}

# Towards the seconds and the rate.
DOWN: dict[str, tuple[Link, ...]] = {
    "payout_run": (Link("payout", "run_id", "id"),),
    "payout": (Link("payout_line", "payout_id", "id", required=always),),
    "payout_attempt": (Link("payout", "id", "payout_id", required=always),),
    "payout_line": (Link("ledger_entry", "id", "ledger_entry_id", required=always),),
    "ledger_entry": (Link("ledger_transaction", "id", "transaction_id", required=always),),
    "ledger_transaction": tuple(_source(table) for table in dict.fromkeys(SOURCE_TABLES.values())),
    "pay_decision": (Link("claim", "id", "claim_id", required=always),),
    "time_entry": (Link("claim", "id", "claim_id", required=always),),
    "claim": (
        Link("rate", "id", "rate_id", required=always),
        Link("role", "id", "role_id", required=always),
        Link("consent_grant", "id", "consent_grant_id", required=always),
        Link("time_entry", "claim_id", "id"),
        Link("pay_decision", "claim_id", "id", shown=False),
    ),
    "role": (Link("task", "id", "task_id", required=always),),
    "task": (Link("job", "id", "job_id", required=always),),
    "audition": (Link("rate", "id", "rate_id", required=always),),
    "refund": (Link("deposit", "id", "deposit_id", required=always),),
    "dispute": (Link("deposit", "id", "deposit_id", required=always),),
    "client_debt_decision": (
        Link("dispute", "client_id", "client_id"),
        Link("client_charge", "client_id", "client_id"),
    ),
    "client_charge": (
        Link("deposit", "id", "deposit_id", required=always),
        Link("dispute", "id", "dispute_id", when=lambda row: row["dispute_id"] is not None),
    ),
    "rate": (Link("rate_lineage", "id", "lineage_id", required=always),),
    "booked_balance_transaction": (
        Link("ledger_transaction", "id", "ledger_transaction_id", required=always),
    ),
    "stripe_line": (Link("booked_balance_transaction", "id", "id"),),
    # What was paid in another currency is credited out of the platform's capital.
    "deposit": (
        Link(
            "ledger_transaction",
            "source_id",
            "id",
            when=lambda row: row["foreign_line_id"] is not None,
        ),
    ),
    "line_booking": (
        Link("stripe_line", "id", "line_id", required=always),
        Link("deposit", "id", "deposit_id", when=lambda row: row["deposit_id"] is not None),
    ),
    "correction": (
        Link("claim", "id", "claim_id", required=always, when=lambda row: bool(row["claim_id"])),
    ),
    # What is owed again was paid once.
    "transfer_reversal": (Link("payout", "id", "payout_id", required=always),),
    # Null is the wallet.
    "reserve_move": (
        Link(
            "reservation",
            "id",
            "from_reservation_id",
            required=always,
            when=lambda row: row["from_reservation_id"] is not None,
        ),
        Link(
            "reservation",
            "id",
            "to_reservation_id",
            required=always,
            when=lambda row: row["to_reservation_id"] is not None,
        ),
    ),
    # A role's, or that of a claim which ended before it was decided.
    "reservation": (Link("role", "reservation_id", "id"), Link("claim", "reservation_id", "id")),
}

# Towards Stripe.
UP: dict[str, tuple[Link, ...]] = {
    "time_entry": (Link("claim", "id", "claim_id", required=always),),
    "role": (
        Link("claim", "role_id", "id"),
        Link("reservation", "id", "reservation_id", when=lambda row: bool(row["reservation_id"])),
    ),
    "reservation": (
        Link("reserve_move", "to_reservation_id", "id"),
        Link("reserve_move", "from_reservation_id", "id"),
    ),
    "claim": (
        Link("pay_decision", "claim_id", "id", required=lambda row: row["state"] == "settled"),
        Link("correction", "claim_id", "id"),
    ),
    "pay_decision": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: row["pay_minor"] > 0,
        ),
    ),
    "audition": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: bool(row["pay_minor"]),
        ),
    ),
    "deposit": (
        Link("line_booking", "deposit_id", "id"),
        Link(
            "ledger_transaction",
            "source_id",
            "id",
            required=lambda row: row["state"] in {"credited", "available"},
        ),
        Link("refund", "deposit_id", "id"),
        Link("dispute", "deposit_id", "id"),
        Link("client_charge", "deposit_id", "id"),
    ),
    "client_charge": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: row["state"] == "approved" and row["amount_minor"] > 0,
        ),
    ),
    "dispute": (
        Link("client_charge", "dispute_id", "id"),
        Link("ledger_transaction", "id", "opened_transaction_id"),
        Link(
            "ledger_transaction",
            "id",
            "ended_transaction_id",
            required=lambda row: row["state"] in {"won", "lost"},
        ),
    ),
    "client_debt_decision": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: row["state"] == "confirmed",
        ),
    ),
    "refund": (
        Link("ledger_transaction", "id", "sent_transaction_id", required=always),
        Link(
            "ledger_transaction",
            "id",
            "confirmed_transaction_id",
            required=lambda row: row["state"] in {"succeeded", "returned"},
        ),
        Link(
            "ledger_transaction",
            "id",
            "ended_transaction_id",
            required=lambda row: row["state"] in {"refused", "returned"},
        ),
    ),
    "topup": (
        Link(
            "ledger_transaction",
            "source_id",
            "id",
            required=lambda row: row["state"] == "succeeded",
        ),
    ),
    "line_booking": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: row["state"] == "booked",
        ),
    ),
    "stripe_line": (
        Link("line_booking", "line_id", "id"),
        Link("booked_balance_transaction", "id", "id"),
    ),
    "withdrawal": (
        Link(
            "ledger_transaction",
            "id",
            "sent_transaction_id",
            required=lambda row: row["sent_at"] is not None,
        ),
        Link(
            "ledger_transaction",
            "id",
            "conclusion_transaction_id",
            required=lambda row: row["state"] in {"in_transit", "arrived", "refused", "returned"},
        ),
        Link(
            "ledger_transaction",
            "id",
            "return_transaction_id",
            required=lambda row: row["state"] == "returned",
        ),
    ),
    "reserve_move": (Link("ledger_transaction", "id", "ledger_transaction_id", required=always),),
    "booked_balance_transaction": (Link("ledger_transaction", "id", "ledger_transaction_id"),),
    "ledger_transaction": (
        Link("ledger_entry", "transaction_id", "id", required=always),
        Link(
            "booked_balance_transaction",
            "ledger_transaction_id",
            "id",
            required=lambda row: row["kind"] in AT_STRIPE and row["moves_stripe"],
        ),
    ),
    "ledger_entry": (
        Link("ledger_transaction", "id", "transaction_id", required=always),
        Link("payout_line", "ledger_entry_id", "id"),
    ),
    "payout_line": (Link("payout", "id", "payout_id", required=always),),
    "payout": (
        Link("payout_run", "id", "run_id", required=always),
        Link(
            "payout_attempt",
            "payout_id",
            "id",
            required=lambda row: row["state"] in {"sending", "unknown", *PAID_STATES},
        ),
        Link("transfer_reversal", "payout_id", "id"),
    ),
    "payout_attempt": (
        Link("ledger_transaction", "id", "in_flight_transaction_id", required=always),
        Link(
            "ledger_transaction",
            "id",
            "conclusion_transaction_id",
            required=lambda row: row["outcome"] is not None,
        ),
        Link(
            "transfer_reversal",
            "transfer_id",
            "transfer_id",
            when=lambda row: row["transfer_id"] is not None,
        ),
    ),
    "correction": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: row["state"] == "approved",
        ),
    ),
    "transfer_reversal": (
        Link(
            "ledger_transaction",
            "id",
            "ledger_transaction_id",
            required=lambda row: row["state"] == "reversed",
        ),
    ),
}

# Rows of ours that an id may be of.
TABLES = (
    "payout",
    "claim",
    "ledger_entry",
    "ledger_transaction",
    "payout_run",
    "payout_line",
    "payout_attempt",
    "pay_decision",
    "time_entry",
    "audition",
    "deposit",
    "topup",
    "refund",
    "dispute",
    "client_debt_decision",
    "client_charge",
    "reserve_move",
    "withdrawal",
    "line_booking",
    "bank_payout",
    "transfer_reversal",
    "correction",
    "reservation",
    "role",
    "job",
    "rate",
    "payout_account",
)

# Stripe's own ids: which row of ours carries them, in which column.
STRIPE_IDS = (
    ("payout_attempt", "transfer_id"),
    ("booked_balance_transaction", "id"),
    ("deposit", "checkout_session_id"),
    ("deposit", "payment_intent_id"),
    ("refund", "stripe_refund_id"),
    ("dispute", "stripe_dispute_id"),
    ("topup", "stripe_topup_id"),
    ("withdrawal", "stripe_payout_id"),
    ("bank_payout", "stripe_payout_id"),
    ("stripe_line", "id"),
    ("transfer_reversal", "reversal_id"),
    ("payout_account", "stripe_account_id"),
    # Of a charge or a payment only Stripe's line tells.
    ("stripe_line", "source_id"),
)

# Rows that say little without a second look.
READABLE = {
    "payout_account": "(SELECT payout_account.*, performer_id AS id FROM payout_account) AS readable",
    "reservation": "(SELECT reservation.*, balance_minor FROM reservation LEFT JOIN account_balance"
    " ON account_id = account_id('job_reserve', reservation.id, reservation.currency)) AS readable",
    "ledger_entry": "(SELECT ledger_entry.*, account.kind AS account, owner_id FROM ledger_entry"
    " JOIN account ON account.id = account_id) AS readable",
    "ledger_transaction": "(SELECT ledger_transaction.*, EXISTS (SELECT FROM ledger_entry JOIN account"
    " ON account.id = account_id WHERE transaction_id = ledger_transaction.id"
    " AND account.kind IN ('stripe_pending', 'stripe_available')) AS moves_stripe"
    " FROM ledger_transaction) AS readable",
    "time_entry": "(SELECT time_entry.*, extract(epoch FROM ended_at - started_at)::bigint"
    " AS seconds FROM time_entry) AS readable",
}
