"""`marketplace verify`: every invariant, checked on the live database and at Stripe itself.

Each check answers its violations, one line each; an empty list is "ok". What concerns Stripe is read
through its HTTP API only: a balanced ledger alone does not prove that anybody was paid once.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.reports import checks
from marketplace.shared import clock
from marketplace.shared.database import Sessions, rows
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import BalanceAmount, BalanceTransaction, Transfer

STABLE_READS = 5
# As long as an unknown outcome may take to be found out.
BOOKED_WITHIN = timedelta(hours=24)


@dataclass(frozen=True)
class StripeView:
    """What Stripe says, read before the database: whatever we booked by `read_from` is in it."""

    read_from: datetime
    transfers: list[Transfer]
    balance_transactions: list[BalanceTransaction]
    balances: Mapping[str, BalanceAmount]

    def total_minor(self, currency: str) -> int:
        amount = self.balances.get(currency, BalanceAmount())
        return amount.available_minor + amount.pending_minor


Check = Callable[[AsyncSession, StripeView], Awaitable[list[str]]]


async def verify(sessions: Sessions, gateway: StripeGateway) -> dict[str, list[str]]:
    """Invariant → its violations. Reads only; safe on a busy system."""
    async with sessions() as session:
        read_from = await clock.settle_writes(session)
    view = await _look_at_stripe(gateway, read_from)
    found: dict[str, list[str]] = {}
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        for name, (_, check) in CHECKS.items():
            found[name] = await check(session, view)
    return found


def summary(found: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: "; ".join(violations) or "ok" for name, violations in found.items()}


def lines(found: Mapping[str, list[str]]) -> list[str]:
    """One line per invariant; a violated one is followed by what violates it."""
    text = []
    for name, violations in found.items():
        title = CHECKS[name][0]
        text.append(f"{'ok  ' if not violations else 'FAIL'} {name:9} {title}")
        text += [f"     {violation}" for violation in violations]
    return text


async def _look_at_stripe(gateway: StripeGateway, read_from: datetime) -> StripeView:
    """A view that nothing moved under: the balance is the same before and after the listing."""
    for _ in range(STABLE_READS):
        before = await gateway.balance()
        transfers = [transfer async for transfer in gateway.list_transfers()]
        booked = [line async for line in gateway.list_balance_transactions()]
        balances = await gateway.balance()
        if before == balances:
            break
    return StripeView(read_from, transfers, booked, balances)


async def _single_transfer(session: AsyncSession, view: StripeView) -> list[str]:
    """I1. Per payout at most one unreversed transfer at Stripe, amount and destination equal."""
    payouts = {
        str(row["id"]): row
        for row in await rows(
            session,
            "SELECT payout.id, payout.amount_minor, payout.currency, payout.destination,"
            " payout.state, payout.transfer_id, max(concluded_at) AS concluded_at"
            " FROM payout LEFT JOIN payout_attempt ON payout_id = payout.id GROUP BY payout.id",
        )
    }
    at_stripe: dict[str, list[Transfer]] = defaultdict(list)
    for transfer in view.transfers:
        if transfer.amount_reversed_minor < transfer.amount_minor:
            at_stripe[transfer.metadata.get("payout_id", "")].append(transfer)
    violations = [
        violation
        for payout_id, transfers in at_stripe.items()
        for violation in _compare_transfers(payout_id, transfers, payouts.get(payout_id))
    ]
    return violations + [
        f"payout {payout_id} is paid, but Stripe has no transfer of it"
        for payout_id, payout in payouts.items()
        if payout["state"] == "paid"
        and (payout["concluded_at"] or view.read_from) <= view.read_from
        and payout_id not in at_stripe
    ]


def _compare_transfers(
    payout_id: str, transfers: list[Transfer], payout: Mapping[str, Any] | None
) -> list[str]:
    ids = ", ".join(transfer.id for transfer in transfers)
    if payout is None:
        return [f"Stripe has {ids}, which belong to no payout of ours"]
    violations = []
    if len(transfers) > 1:
        violations.append(f"payout {payout_id} has {len(transfers)} transfers at Stripe: {ids}")
    asked = (payout["amount_minor"], payout["currency"], payout["destination"])
    violations += [
        f"{transfer.id} moved {transfer.amount_minor} {transfer.currency} to "
        f"{transfer.destination}; payout {payout_id} says {asked}"
        for transfer in transfers
        if (transfer.amount_minor, transfer.currency, transfer.destination) != asked
    ]
    if payout["state"] not in {"sending", "unknown", "paid"}:
        violations.append(f"payout {payout_id} is {payout['state']}, but Stripe has {ids}")
    if payout["transfer_id"] and payout["transfer_id"] not in ids:
        violations.append(f"payout {payout_id} names {payout['transfer_id']}, Stripe has {ids}")
    return violations


async def _stripe_balance(session: AsyncSession, view: StripeView) -> list[str]:
    """I4. Stripe's balance = the ledger's + what is not booked yet, by id once that is old."""
    booked = {
        row["id"]: row
        for row in await rows(
            session, "SELECT id, net_minor, currency, booked_at FROM booked_balance_transaction"
        )
    }
    at_stripe = {line.id: line for line in view.balance_transactions}
    violations = [
        f"{line.id} nets {line.net_minor} at Stripe, {booked[line.id]['net_minor']} in the ledger"
        for line in view.balance_transactions
        if line.id in booked and booked[line.id]["net_minor"] != line.net_minor
    ]
    violations += [
        f"{id_} is booked, but Stripe does not know it"
        for id_, row in booked.items()
        if id_ not in at_stripe and row["booked_at"] <= view.read_from
    ]
    violations += [
        f"{line.id} ({line.type}, {line.net_minor} {line.currency}) is not booked"
        for line in view.balance_transactions
        if line.id not in booked and line.created_at < view.read_from - BOOKED_WITHIN
    ]
    for ledger in await rows(session, checks.STRIPE_ACCOUNTS):
        currency = ledger["currency"]
        ours = sum(row["net_minor"] for row in booked.values() if row["currency"] == currency)
        if ours != ledger["minor"]:
            violations.append(
                f"the ledger's Stripe accounts hold {ledger['minor']} {currency}, its booked "
                f"balance transactions {ours}"
            )
    for currency in {line.currency for line in view.balance_transactions} | set(view.balances):
        listed = sum(
            line.net_minor for line in view.balance_transactions if line.currency == currency
        )
        if listed != view.total_minor(currency):
            violations.append(
                f"Stripe's balance is {view.total_minor(currency)} {currency}, its lines sum to "
                f"{listed}"
            )
    return violations


async def _coverage(session: AsyncSession, view: StripeView) -> list[str]:
    """Cash at Stripe covers wallets, reserves, payables and what is in flight, per currency.

    A transfer that Stripe made and we have not booked yet has left its balance, but is still in
    flight here: it counts as cash until it is booked.
    """
    booked = {row["id"] for row in await rows(session, "SELECT id FROM booked_balance_transaction")}
    cash: dict[str, int] = defaultdict(int)
    for currency in view.balances:
        cash[currency] = view.total_minor(currency)
    for line in view.balance_transactions:
        if line.type == "transfer" and line.id not in booked:
            cash[line.currency] -= line.net_minor
    return [
        f"Stripe holds {cash[owed['currency']]} {owed['currency']}, {owed['minor']} are owed"
        for owed in await rows(session, checks.OWED)
        if cash[owed["currency"]] < owed["minor"]
    ]


def _query(sql: str) -> Check:
    """A check that is one statement: each row it answers (`violation`) is one."""

    async def check(session: AsyncSession, _view: StripeView) -> list[str]:
        return [str(row["violation"]) for row in await rows(session, sql)]

    return check


CHECKS: dict[str, tuple[str, Check]] = {
    "I1": ("one transfer at Stripe per payout, as approved", _single_transfer),
    "I2": ("every paid second in one payout line at most, the rest payable", _query(checks.I2)),
    "I3": ("the ledger balances; guarded balances equal their entries", _query(checks.I3)),
    "I4": ("Stripe's balance equals the ledger's, line by line", _stripe_balance),
    "I5": ("every cent leads from Stripe to the seconds and the rate behind it", _query(checks.I5)),
    "I6": ("live claims fit their roles; counters are right", _query(checks.I6)),
    "I9": ("one effect per Stripe event", _query(checks.I9)),
    "I11": ("states moved only as their table allows", _query(checks.I11)),
    "I14": ("clearing accounts return to zero, source by source", _query(checks.I14)),
    "coverage": ("cash covers all that is owed", _coverage),
    "pay-by": ("no pay-by date passed without a stated reason", _query(checks.PAY_BY)),
}
