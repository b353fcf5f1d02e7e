"""The ledger's tables. The database itself refuses what would make them lie (see migrations)."""

from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel

from marketplace.shared.columns import choice, is_one_of, key, link, minor_units, updatable


class AccountKind(StrEnum):
    # assets and costs: a debit (positive entry) increases them
    STRIPE_PENDING = "stripe_pending"
    STRIPE_AVAILABLE = "stripe_available"
    STRIPE_FEES = "stripe_fees"
    PLATFORM_EXPENSE = "platform_expense"
    DISPUTE_FEES = "dispute_fees"
    BAD_DEBT = "bad_debt"
    DISPUTES_RECEIVABLE = "disputes_receivable"  # what Stripe holds until a dispute is decided
    CLIENT_RECEIVABLE = "client_receivable"
    PERFORMER_RECEIVABLE = "performer_receivable"
    # liabilities, income and capital: a credit (negative entry) increases them
    CLIENT_WALLET = "client_wallet"
    WALLET_DISPUTED = "wallet_disputed"  # out of the wallet until a dispute is decided
    JOB_RESERVE = "job_reserve"
    PERFORMER_PAYABLE = "performer_payable"
    TRANSFERS_IN_FLIGHT = "transfers_in_flight"
    REFUNDS_IN_FLIGHT = "refunds_in_flight"
    BANK_IN_TRANSIT = "bank_in_transit"
    PLATFORM_FEES = "platform_fees"
    PLATFORM_CAPITAL = "platform_capital"


class TransactionKind(StrEnum):
    """The event that moved money; with its source row it is unique."""

    DEPOSIT_CREDITED = "deposit_credited"
    FUNDS_AVAILABLE = "funds_available"
    TOPUP_SUCCEEDED = "topup_succeeded"
    RESERVE_CHANGED = "reserve_changed"
    CLAIM_PAID = "claim_paid"
    AUDITION_PAID = "audition_paid"
    TRANSFER_SENT = "transfer_sent"
    TRANSFER_CONFIRMED = "transfer_confirmed"
    TRANSFER_REFUSED = "transfer_refused"
    TRANSFER_REVERSED = "transfer_reversed"
    PAY_ADJUSTED = "pay_adjusted"
    OVERPAYMENT_FOUND = "overpayment_found"
    RECEIVABLE_NETTED = "receivable_netted"
    RECEIVABLE_WRITTEN_OFF = "receivable_written_off"
    REFUND_SENT = "refund_sent"
    REFUND_CONFIRMED = "refund_confirmed"
    REFUND_REFUSED = "refund_refused"
    REFUND_RETURNED = "refund_returned"
    DISPUTE_OPENED = "dispute_opened"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    CLIENT_DEBT_SETTLED = "client_debt_settled"
    CLIENT_DEBT_WRITTEN_OFF = "client_debt_written_off"
    CLIENT_CHARGED = "client_charged"
    WITHDRAWAL_SENT = "withdrawal_sent"
    WITHDRAWAL_CONFIRMED = "withdrawal_confirmed"
    WITHDRAWAL_REFUSED = "withdrawal_refused"
    WITHDRAWAL_RETURNED = "withdrawal_returned"
    STRIPE_FEE_BOOKED = "stripe_fee_booked"
    CAPITAL_BOOKED = "capital_booked"


# The table whose row is that event.
SOURCE_TABLES = {
    TransactionKind.DEPOSIT_CREDITED: "deposit",
    TransactionKind.FUNDS_AVAILABLE: "deposit",
    TransactionKind.TOPUP_SUCCEEDED: "topup",
    TransactionKind.RESERVE_CHANGED: "reserve_move",
    TransactionKind.CLAIM_PAID: "pay_decision",
    TransactionKind.AUDITION_PAID: "audition",
    TransactionKind.TRANSFER_SENT: "payout_attempt",
    TransactionKind.TRANSFER_CONFIRMED: "payout_attempt",
    TransactionKind.TRANSFER_REFUSED: "payout_attempt",
    TransactionKind.TRANSFER_REVERSED: "transfer_reversal",
    TransactionKind.PAY_ADJUSTED: "correction",
    TransactionKind.OVERPAYMENT_FOUND: "correction",
    TransactionKind.RECEIVABLE_NETTED: "correction",
    TransactionKind.RECEIVABLE_WRITTEN_OFF: "correction",
    TransactionKind.REFUND_SENT: "refund",
    TransactionKind.REFUND_CONFIRMED: "refund",
    TransactionKind.REFUND_REFUSED: "refund",
    TransactionKind.REFUND_RETURNED: "refund",
    TransactionKind.DISPUTE_OPENED: "dispute",
    TransactionKind.DISPUTE_WON: "dispute",
    TransactionKind.DISPUTE_LOST: "dispute",
    TransactionKind.CLIENT_DEBT_SETTLED: "client_debt_decision",
    TransactionKind.CLIENT_DEBT_WRITTEN_OFF: "client_debt_decision",
    TransactionKind.CLIENT_CHARGED: "client_charge",
    TransactionKind.WITHDRAWAL_SENT: "withdrawal",
    TransactionKind.WITHDRAWAL_CONFIRMED: "withdrawal",
    TransactionKind.WITHDRAWAL_REFUSED: "withdrawal",
    TransactionKind.WITHDRAWAL_RETURNED: "withdrawal",
    TransactionKind.STRIPE_FEE_BOOKED: "line_booking",
    TransactionKind.CAPITAL_BOOKED: "line_booking",
}


def _is_event_of_its_source() -> sa.CheckConstraint:
    pairs = ", ".join(f"('{kind.value}', '{table}')" for kind, table in SOURCE_TABLES.items())
    return sa.CheckConstraint(f"(kind, source_type) IN ({pairs})", name="source_known")


class Account(SQLModel, table=True):
    __tablename__ = "account"
    __table_args__ = (
        sa.UniqueConstraint("id", "currency"),
        sa.UniqueConstraint(
            "kind",
            "owner_id",
            "currency",
            name="uq_account_identity",
            postgresql_nulls_not_distinct=True,
        ),
        is_one_of("kind", AccountKind),
        # One that is opened under another id could never be opened again.
        sa.CheckConstraint("id = account_id(kind, owner_id, currency)", name="id_follows"),
        updatable(),
    )

    # account_id(kind, owner, currency), a function of the database: no look-up, no race.
    id: UUID = Field(primary_key=True)
    kind: AccountKind = choice(AccountKind)
    # The client, reservation or performer whose money this is; null for the platform's.
    owner_id: UUID | None = None
    currency: str


class AccountBalance(SQLModel, table=True):
    """The guarded balances, as what we owe (credits minus debits). Written by triggers alone."""

    __tablename__ = "account_balance"
    __table_args__ = (sa.CheckConstraint("balance_minor >= 0", name="covered"), updatable())

    account_id: UUID = link("account.id", primary_key=True)
    balance_minor: int = minor_units()


class LedgerTransaction(SQLModel, table=True):
    __tablename__ = "ledger_transaction"
    __table_args__ = (
        sa.UniqueConstraint("id", "currency"),
        sa.UniqueConstraint("kind", "source_type", "source_id", name="uq_ledger_transaction_event"),
        Index("ix_ledger_transaction_source", "source_id"),
        Index("ix_ledger_transaction_booked_at", "booked_at"),
        _is_event_of_its_source(),
        updatable(),
    )

    id: UUID = key()
    kind: TransactionKind = choice(TransactionKind)
    # The table and row of that one event (a reservation change, a pay decision, an attempt …);
    # the table follows from the kind.
    source_type: str
    source_id: UUID
    currency: str
    occurred_at: datetime = Field(sa_type=sa.DateTime(timezone=True))
    booked_at: datetime = Field(
        sa_type=sa.DateTime(timezone=True),
        sa_column_kwargs={"server_default": sa.text("booking_time()")},
    )
    # The day of booked_at in UTC, set by a trigger.
    accounting_date: date
    # Which database transaction wrote it; an entry can join only while that one is open. The
    # start time stands beside the xid because xids begin anew after a restore. A trigger sets both.
    written_by_xid: str = Field(sa_column_kwargs={"server_default": sa.text("''")})
    written_at: datetime = Field(
        sa_type=sa.DateTime(timezone=True), sa_column_kwargs={"server_default": sa.text("now()")}
    )


class LedgerEntry(SQLModel, table=True):
    __tablename__ = "ledger_entry"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["transaction_id", "currency"], ["ledger_transaction.id", "ledger_transaction.currency"]
        ),
        sa.ForeignKeyConstraint(["account_id", "currency"], ["account.id", "account.currency"]),
        sa.CheckConstraint("amount_minor <> 0", name="not_zero"),
        Index("ix_ledger_entry_transaction_id", "transaction_id"),
        Index("ix_ledger_entry_account_id", "account_id", "id"),
        updatable(),
    )

    id: UUID = Field(
        primary_key=True, default=None, sa_column_kwargs={"server_default": sa.text("uuidv7()")}
    )
    transaction_id: UUID
    account_id: UUID
    currency: str
    # Debit positive, credit negative.
    amount_minor: int = minor_units()
