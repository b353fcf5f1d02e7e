"""What our product keeps of Stripe's answers: ids, states, money in minor units, UTC times.

Currencies are upper-case ISO codes here and lower-case at Stripe. `request_id` names the call in
Stripe's own logs; objects that came inside another one have none.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ConnectedAccount:
    """`transfers` is 'active', 'inactive', 'pending' or 'unrequested'; only 'active' is paid."""

    id: str
    transfers: str
    details_submitted: bool
    payouts_enabled: bool
    country: str | None
    default_currency: str | None
    disabled_reason: str | None
    currently_due: tuple[str, ...]
    metadata: dict[str, str]
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class OnboardingLink:
    url: str
    expires_at: datetime
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class DepositCheckout:
    id: str
    url: str
    expires_at: datetime
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class BalanceTransaction:
    """`amount_minor = fee_minor + net_minor`; negative amounts left the balance."""

    id: str
    type: str
    reporting_category: str
    amount_minor: int
    fee_minor: int
    net_minor: int
    currency: str
    source_id: str | None
    status: str
    description: str | None
    created_at: datetime
    available_on: datetime


@dataclass(frozen=True, kw_only=True)
class Deposit:
    """A Checkout Session, and what came of its payment so far.

    `status` is 'open', 'complete' or 'expired'. Only `payment_intent_status == 'succeeded'` is
    money, and its fee is known only once `balance_transaction` is there.
    """

    session_id: str
    status: str | None
    payment_status: str
    amount_minor: int
    currency: str
    client_reference_id: str | None
    metadata: dict[str, str]
    payment_intent_id: str | None
    payment_intent_status: str | None
    charge_id: str | None
    balance_transaction: BalanceTransaction | None
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """`status` is 'won', 'lost', 'needs_response', 'under_review', 'prevented' or 'warning_…', which
    is an inquiry and moves nothing.

    `withdrawn` and `reinstated` are Stripe's own lines of it, once they are made.
    """

    id: str
    status: str
    reason: str
    amount_minor: int
    currency: str
    payment_intent_id: str | None
    # Of the payment that is disputed.
    payment_metadata: dict[str, str]
    withdrawn: BalanceTransaction | None
    reinstated: BalanceTransaction | None
    answer_by: datetime | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Topup:
    """`status` is 'pending', 'succeeded', 'failed', 'canceled' or 'reversed'."""

    id: str
    status: str
    amount_minor: int
    currency: str
    balance_transaction_id: str | None
    failure_message: str | None
    metadata: dict[str, str]
    created_at: datetime
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class Refund:
    """`status` is 'pending', 'requires_action', 'succeeded', 'failed' or 'canceled'.

    Money has left our balance once `taken` is there, whatever the status says, and has come back
    once `returned` is.
    """

    id: str
    status: str | None
    amount_minor: int
    currency: str
    payment_intent_id: str | None
    metadata: dict[str, str]
    taken: BalanceTransaction | None
    returned: BalanceTransaction | None
    failure_reason: str | None
    pending_reason: str | None
    created_at: datetime
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A transfer has no status: that it exists means that the money moved."""

    id: str
    amount_minor: int
    amount_reversed_minor: int
    currency: str
    destination: str
    transfer_group: str | None
    metadata: dict[str, str]
    balance_transaction_id: str | None
    created_at: datetime
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class BankPayout:
    """Out of a Stripe balance to its owner's bank account.

    `status` is 'pending', 'in_transit', 'paid', 'failed' or 'canceled'; it may fail after 'paid'.
    Then, and when it is canceled, `failure_balance_transaction_id` brings the money back.
    """

    id: str
    status: str
    amount_minor: int
    currency: str
    automatic: bool
    metadata: dict[str, str]
    balance_transaction_id: str | None
    failure_balance_transaction_id: str | None
    failure_code: str | None
    failure_message: str | None
    arrives_at: datetime
    created_at: datetime
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class Reversal:
    """What came back of a transfer, from the connected account's balance into ours."""

    id: str
    transfer_id: str
    amount_minor: int
    currency: str
    metadata: dict[str, str]
    balance_transaction_id: str | None
    created_at: datetime
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class BalanceAmount:
    available_minor: int = 0
    pending_minor: int = 0


def read_account(body: dict[str, Any], request_id: str | None) -> ConnectedAccount:
    requirements = body.get("requirements") or {}
    return ConnectedAccount(
        id=body["id"],
        transfers=(body.get("capabilities") or {}).get("transfers", "unrequested"),
        details_submitted=bool(body.get("details_submitted")),
        payouts_enabled=bool(body.get("payouts_enabled")),
        country=body.get("country"),
        default_currency=(body.get("default_currency") or "").upper() or None,
        disabled_reason=requirements.get("disabled_reason"),
        currently_due=tuple(requirements.get("currently_due") or ()),
        metadata=body.get("metadata") or {},
        request_id=request_id,
    )


def read_onboarding_link(body: dict[str, Any], request_id: str | None) -> OnboardingLink:
    return OnboardingLink(
        url=body["url"], expires_at=_moment(body["expires_at"]), request_id=request_id
    )


def read_deposit_checkout(body: dict[str, Any], request_id: str | None) -> DepositCheckout:
    return DepositCheckout(
        id=body["id"],
        url=body["url"],
        expires_at=_moment(body["expires_at"]),
        request_id=request_id,
    )


def read_deposit(body: dict[str, Any], request_id: str | None) -> Deposit:
    """Expects `payment_intent.latest_charge.balance_transaction` expanded."""
    intent = body["payment_intent"] or {}
    charge = intent.get("latest_charge") or {}
    booked = charge.get("balance_transaction")
    return Deposit(
        session_id=body["id"],
        status=body["status"],
        payment_status=body["payment_status"],
        amount_minor=body["amount_total"],
        currency=body["currency"].upper(),
        client_reference_id=body["client_reference_id"],
        metadata=body.get("metadata") or {},
        payment_intent_id=intent.get("id"),
        payment_intent_status=intent.get("status"),
        charge_id=charge.get("id"),
        balance_transaction=None if booked is None else read_balance_transaction(booked),
        request_id=request_id,
    )


def read_dispute(body: dict[str, Any]) -> Dispute:
    """Expects `payment_intent` expanded."""
    intent = body.get("payment_intent") or {}
    lines = [read_balance_transaction(line) for line in body["balance_transactions"]]
    answer_by = (body.get("evidence_details") or {}).get("due_by")
    return Dispute(
        id=body["id"],
        status=body["status"],
        reason=body["reason"],
        amount_minor=body["amount"],
        currency=body["currency"].upper(),
        payment_intent_id=intent.get("id"),
        payment_metadata=intent.get("metadata") or {},
        # The largest each way; what else there is, as a fee of its own, is a line like any other.
        withdrawn=min((line for line in lines if line.amount_minor < 0), key=_amount, default=None),
        reinstated=max(
            (line for line in lines if line.amount_minor > 0), key=_amount, default=None
        ),
        answer_by=None if answer_by is None else _moment(answer_by),
        created_at=_moment(body["created"]),
    )


def _amount(line: BalanceTransaction) -> int:
    return line.amount_minor


def read_topup(body: dict[str, Any], request_id: str | None = None) -> Topup:
    return Topup(
        id=body["id"],
        status=body["status"],
        amount_minor=body["amount"],
        currency=body["currency"].upper(),
        balance_transaction_id=body.get("balance_transaction"),
        failure_message=body.get("failure_message"),
        metadata=body["metadata"],
        created_at=_moment(body["created"]),
        request_id=request_id,
    )


def read_refund(body: dict[str, Any], request_id: str | None = None) -> Refund:
    """Expects both balance transactions expanded."""
    taken, returned = body.get("balance_transaction"), body.get("failure_balance_transaction")
    return Refund(
        id=body["id"],
        status=body["status"],
        amount_minor=body["amount"],
        currency=body["currency"].upper(),
        payment_intent_id=body.get("payment_intent"),
        metadata=body.get("metadata") or {},
        taken=None if taken is None else read_balance_transaction(taken),
        returned=None if returned is None else read_balance_transaction(returned),
        failure_reason=body.get("failure_reason"),
        pending_reason=body.get("pending_reason"),
        created_at=_moment(body["created"]),
        request_id=request_id,
    )


def read_balance_transaction(body: dict[str, Any]) -> BalanceTransaction:
    return BalanceTransaction(
        id=body["id"],
        type=body["type"],
        reporting_category=body["reporting_category"],
        amount_minor=body["amount"],
        fee_minor=body["fee"],
        net_minor=body["net"],
        currency=body["currency"].upper(),
        source_id=body.get("source"),
        status=body["status"],
        description=body.get("description"),
        created_at=_moment(body["created"]),
        available_on=_moment(body["available_on"]),
    )


def read_transfer(body: dict[str, Any], request_id: str | None = None) -> Transfer:
    return Transfer(
        id=body["id"],
        amount_minor=body["amount"],
        amount_reversed_minor=body["amount_reversed"],
        currency=body["currency"].upper(),
        destination=body["destination"],
        transfer_group=body.get("transfer_group"),
        metadata=body["metadata"],
        balance_transaction_id=body.get("balance_transaction"),
        created_at=_moment(body["created"]),
        request_id=request_id,
    )


def read_bank_payout(body: dict[str, Any], request_id: str | None = None) -> BankPayout:
    return BankPayout(
        id=body["id"],
        status=body["status"],
        amount_minor=body["amount"],
        currency=body["currency"].upper(),
        automatic=body["automatic"],
        metadata=body.get("metadata") or {},
        balance_transaction_id=body.get("balance_transaction"),
        failure_balance_transaction_id=body.get("failure_balance_transaction"),
        failure_code=body.get("failure_code"),
        failure_message=body.get("failure_message"),
        arrives_at=_moment(body["arrival_date"]),
        created_at=_moment(body["created"]),
        request_id=request_id,
    )


def read_reversal(body: dict[str, Any], request_id: str | None = None) -> Reversal:
    return Reversal(
        id=body["id"],
        transfer_id=body["transfer"],
        amount_minor=body["amount"],
        currency=body["currency"].upper(),
        metadata=body.get("metadata") or {},
        balance_transaction_id=body.get("balance_transaction"),
        created_at=_moment(body["created"]),
        request_id=request_id,
    )


def read_balance(body: dict[str, Any]) -> dict[str, BalanceAmount]:
    """By upper-case currency; a currency that Stripe does not name holds nothing."""
    available = {line["currency"].upper(): line["amount"] for line in body["available"]}
    pending = {line["currency"].upper(): line["amount"] for line in body["pending"]}
    return {
        currency: BalanceAmount(
            available_minor=available.get(currency, 0), pending_minor=pending.get(currency, 0)
        )
        for currency in sorted(available.keys() | pending.keys())
    }


def _moment(unix_seconds: int) -> datetime:
    return datetime.fromtimestamp(unix_seconds, tz=UTC)
