"""Money in the sandbox: balance transactions and the balances they add up to.

Every movement is one balance transaction with `amount = fee + net`; a balance is the sum of the
`net` of all of them, available from each one's `available_on`.
"""

from dataclasses import dataclass
from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.calls import RETRIEVE, Call, Operation, in_path, listing_of
from marketplace.stripe_sandbox.errors import balance_insufficient
from marketplace.stripe_sandbox.forms import Currency, Text
from marketplace.stripe_sandbox.views import answer, page

CARD_FEE_PER_THOUSAND = 29
CARD_FEE_FIXED_MINOR = 30


def card_fee_minor(amount_minor: int) -> int:
    """2.9 %, half up, plus 0.30 in the currency's minor unit."""
    return (2 * amount_minor * CARD_FEE_PER_THOUSAND + 1000) // 2000 + CARD_FEE_FIXED_MINOR


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Money coming into (positive) or leaving one account, because of `source`."""

    type_: str
    reporting_category: str
    source: str | None
    amount_minor: int
    currency: str
    fee_minor: int = 0
    available_after_seconds: int = 0
    account: str = state.PLATFORM
    description: str | None = None
    exchange_rate: float | None = None


def book(call: Call, movement: Movement) -> dict[str, Any]:
    """Writes the balance transaction of one movement."""
    transaction = {
        "id": state.new_id("txn"),
        "object": "balance_transaction",
        "amount": movement.amount_minor,
        "available_on": call.now + movement.available_after_seconds,
        "balance_type": "payments",
        "created": call.now,
        "currency": movement.currency,
        "description": movement.description,
        "exchange_rate": movement.exchange_rate,
        "fee": movement.fee_minor,
        "fee_details": _fee_details(movement),
        "net": movement.amount_minor - movement.fee_minor,
        "reporting_category": movement.reporting_category,
        "source": movement.source,
        "status": "pending",
        "type": movement.type_,
    }
    state.insert(call.db, transaction, account=movement.account)
    call.db.execute(
        "INSERT INTO balance_line (id, account, currency, net_minor, available_on) "
        "VALUES (:id, :account, :currency, :net, :available_on)",
        {**transaction, "account": movement.account, "fee_details": None},
    )
    return transaction


def require_available(
    call: Call, *, amount_minor: int, currency: str, account: str = state.PLATFORM
) -> None:
    """Refuses what an account's available balance in this currency does not cover."""
    available, _ = balance_of(call, account).get(currency, (0, 0))
    if available < amount_minor:
        raise balance_insufficient()


def balance_of(call: Call, account: str) -> dict[str, tuple[int, int]]:
    """Per currency (available, pending), in minor units."""
    rows = call.db.execute(
        "SELECT currency, "
        "coalesce(sum(net_minor) FILTER (WHERE available_on <= ?), 0) AS available, "
        "coalesce(sum(net_minor) FILTER (WHERE available_on > ?), 0) AS pending "
        "FROM balance_line WHERE account = ? GROUP BY currency ORDER BY currency",
        (call.now, call.now, account),
    ).fetchall()
    return {row["currency"]: (row["available"], row["pending"]) for row in rows}


def retrieve_balance(call: Call) -> dict[str, Any]:
    sums = balance_of(call, call.account) or {"usd": (0, 0)}
    return {
        "object": "balance",
        "available": [_amount(currency, sums[currency][0]) for currency in sums],
        "livemode": False,
        "pending": [_amount(currency, sums[currency][1]) for currency in sums],
    }


def retrieve_balance_transaction(call: Call) -> dict[str, Any]:
    return answer(call, in_path(call, "balance_transaction"))


def list_balance_transactions(call: Call) -> dict[str, Any]:
    names = ("type", "source", "currency")
    filters = {name: call.parameters[name] for name in names if name in call.parameters}
    return page(call, "balance_transaction", url="/v1/balance_transactions", filters=filters)


OPERATIONS = (
    Operation(method="GET", path="/v1/balance", takes=RETRIEVE, run=retrieve_balance, connect=True),
    Operation(
        method="GET",
        path="/v1/balance_transactions",
        takes=listing_of(type=Text(), source=Text(), currency=Currency()),
        run=list_balance_transactions,
        connect=True,
    ),
    Operation(
        method="GET",
        path="/v1/balance_transactions/{id}",
        takes=RETRIEVE,
        run=retrieve_balance_transaction,
        connect=True,
    ),
)


def _fee_details(movement: Movement) -> list[dict[str, Any]]:
    if movement.fee_minor == 0:
        return []
    return [
        {
            "amount": movement.fee_minor,
            "application": None,
            "currency": movement.currency,
            "description": "Stripe processing fees",
            "type": "stripe_fee",
        }
    ]


def _amount(currency: str, amount_minor: int) -> dict[str, Any]:
    return {"amount": amount_minor, "currency": currency, "source_types": {"card": amount_minor}}
