"""What Stripe itself says, read through its HTTP API only, beside our books."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts.models import PAID_STATES
from marketplace.reports.checks import earnings, ledger, refunds
from marketplace.shared.database import rows
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import (
    BalanceAmount,
    BalanceTransaction,
    BankPayout,
    Refund,
    Transfer,
)

STABLE_READS = 5
# What is in flight here until its line is booked: our ids and Stripe's.
IN_FLIGHT = """
    SELECT id::text FROM payout WHERE state IN ('sending', 'unknown')
    UNION ALL
    SELECT id::text FROM withdrawal WHERE state IN ('sending', 'unknown')
    UNION ALL
    SELECT unnest(ARRAY[id::text, stripe_refund_id]) FROM refund
    WHERE confirmed_transaction_id IS NULL AND ended_transaction_id IS NULL
"""
# As long as an unknown outcome may take to be found out.
BOOKED_WITHIN = timedelta(hours=24)
MOVED = "Stripe's balance moved while it was read: run this again"


@dataclass(frozen=True)
class StripeView:
    """What Stripe says, read before the database: whatever we booked by `read_from` is in it."""

    read_from: datetime
    transfers: list[Transfer]
    refunds: list[Refund]
    balance_transactions: list[BalanceTransaction]
    balances: Mapping[str, BalanceAmount]
    # Whether the lists and the balance are of one moment.
    is_stable: bool
    # Out of the platform's own balance.
    bank_payouts: list[BankPayout] = field(default_factory=list)

    def total_minor(self, currency: str) -> int:
        amount = self.balances.get(currency, BalanceAmount())
        return amount.available_minor + amount.pending_minor


@dataclass(frozen=True)
class Finding:
    """What became of one invariant."""

    violations: list[str] = field(default_factory=list)
    # Worth a look; they violate nothing.
    notes: list[str] = field(default_factory=list)
    # Why a part of it could not be checked: then no violation does not mean that it holds.
    unchecked: str | None = None

    @property
    def holds(self) -> bool:
        return not self.violations and self.unchecked is None


async def look_at_stripe(gateway: StripeGateway, read_from: datetime) -> StripeView:
    """Read until nothing moved under it: the balance is the same before and after the listing."""
    for _ in range(STABLE_READS):
        before = await gateway.balance()
        transfers = [transfer async for transfer in gateway.list_transfers()]
        bank_payouts = [payout async for payout in gateway.list_bank_payouts()]
        refunds = [refund async for refund in gateway.list_refunds()]
        booked = [line async for line in gateway.list_balance_transactions()]
        balances = await gateway.balance()
        if before == balances:
            break
    return StripeView(
        read_from,
        transfers,
        refunds,
        booked,
        balances,
        is_stable=before == balances,
        bank_payouts=bank_payouts,
    )


async def single_transfer(session: AsyncSession, view: StripeView) -> Finding:
    """I1. Per payout at most one unreversed transfer at Stripe, amount and destination equal; and
    of it came back what two people here asked for.

    Per refund at most one that stands, of its amount.
    """
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
    own = {payout["transfer_id"]: payout_id for payout_id, payout in payouts.items()}
    for transfer in view.transfers:
        if transfer.amount_reversed_minor < transfer.amount_minor or transfer.id in own:
            named = transfer.metadata.get("payout_id", "")
            # One that came in late may pay another payout than the one that was given up.
            if named not in payouts or payouts[named]["state"] == "released":
                named = own.get(transfer.id, named)
            at_stripe[named].append(transfer)
    violations = [
        violation
        for payout_id, transfers in at_stripe.items()
        for violation in _compare_transfers(payout_id, transfers, payouts.get(payout_id))
    ]
    violations += [
        f"payout {payout_id} is paid, but Stripe has no transfer of it"
        for payout_id, payout in payouts.items()
        if payout["state"] in PAID_STATES
        and (payout["concluded_at"] or view.read_from) <= view.read_from
        and payout_id not in at_stripe
    ]
    violations += await refunds.compare(session, view.refunds, view.read_from)
    return Finding(violations + await _came_back(session, view))


async def _came_back(session: AsyncSession, view: StripeView) -> list[str]:
    """What came back of each transfer at Stripe is what our reversals say: no more, no less."""
    told = {
        row["transfer_id"]: row
        for row in await rows(session, earnings.CAME_BACK, read_from=view.read_from)
    }
    violations = []
    for transfer in view.transfers:
        row = told.get(transfer.id)
        if row and not row["least"] <= transfer.amount_reversed_minor <= row["most"]:
            violations.append(
                f"of {transfer.id} {transfer.amount_reversed_minor} {transfer.currency} came back "
                f"at Stripe, our reversals say {row['least']}{row['unexplained']}"
            )
    return violations


def _compare_transfers(
    payout_id: str, transfers: list[Transfer], payout: Mapping[str, Any] | None
) -> list[str]:
    known = {transfer.id for transfer in transfers}
    ids = ", ".join(sorted(known))
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
    if payout["state"] not in {"sending", "unknown", *PAID_STATES}:
        violations.append(f"payout {payout_id} is {payout['state']}, but Stripe has {ids}")
    if payout["transfer_id"] and payout["transfer_id"] not in known:
        violations.append(f"payout {payout_id} names {payout['transfer_id']}, Stripe has {ids}")
    return violations


async def single_bank_payout(session: AsyncSession, view: StripeView) -> Finding:
    """I15. Per withdrawal at most one payout at Stripe that stands, as approved.

    One that was given back does not stand, nor does a late one that two people booked as capital. A
    payout that names no withdrawal is a line like any other: I4 says if nobody books it.
    """
    withdrawals = {
        str(row["id"]): row
        for row in await rows(
            session,
            "SELECT withdrawal.id, amount_minor, withdrawal.currency, state, stripe_payout_id,"
            " booked_at FROM withdrawal LEFT JOIN booked_balance_transaction"
            " ON ledger_transaction_id = conclusion_transaction_id",
        )
    }
    known = {payout.id for payout in view.bank_payouts}
    violations = [
        f"withdrawal {id_} names {row['stripe_payout_id']}, which Stripe does not have"
        for id_, row in withdrawals.items()
        if row["stripe_payout_id"] not in known | {None}
        and (row["booked_at"] or view.read_from) <= view.read_from
    ]
    decided = {
        row["line_id"]
        for row in await rows(session, "SELECT line_id FROM line_booking WHERE state = 'booked'")
    }
    own = {row["stripe_payout_id"] for row in withdrawals.values()}
    at_stripe: dict[str, list[BankPayout]] = defaultdict(list)
    for payout in view.bank_payouts:
        named = payout.metadata.get("withdrawal_id")
        is_over = payout.failure_balance_transaction_id or payout.balance_transaction_id in decided
        if named and (payout.id in own or not is_over):
            at_stripe[named].append(payout)
    violations += [
        violation
        for named, payouts in at_stripe.items()
        for violation in _compare_bank_payouts(named, payouts, withdrawals.get(named))
    ]
    return Finding(violations)


def _compare_bank_payouts(
    named: str, payouts: list[BankPayout], withdrawal: Mapping[str, Any] | None
) -> list[str]:
    ids = ", ".join(sorted(payout.id for payout in payouts))
    if withdrawal is None:
        return [f"Stripe has {ids} of a withdrawal {named} that is none of ours"]
    violations = []
    if len(payouts) > 1:
        violations.append(f"withdrawal {named} has {len(payouts)} payouts at Stripe: {ids}")
    asked = (withdrawal["amount_minor"], withdrawal["currency"])
    violations += [
        f"{payout.id} moved {payout.amount_minor} {payout.currency}; withdrawal {named} says {asked}"
        for payout in payouts
        if (payout.amount_minor, payout.currency) != asked
    ]
    if withdrawal["state"] in {"requested", "approved", "refused", "discarded"}:
        violations.append(f"withdrawal {named} is {withdrawal['state']}, but Stripe has {ids}")
    return violations


async def stripe_balance(session: AsyncSession, view: StripeView) -> Finding:
    """I4. Stripe's balance = the ledger's + what is not booked yet, each line of it by its id."""
    booked = {
        row["id"]: row
        for row in await rows(
            session, "SELECT id, net_minor, currency, booked_at FROM booked_balance_transaction"
        )
    }
    at_stripe = {line.id: line for line in view.balance_transactions}
    unbooked = [
        line for line in view.balance_transactions if line.id not in booked and line.net_minor
    ]
    overdue = [line for line in unbooked if line.created_at < view.read_from - BOOKED_WITHIN]
    violations = [
        f"{line.id} nets {line.net_minor} {line.currency} at Stripe, "
        f"{row['net_minor']} {row['currency']} in the ledger"
        for line in view.balance_transactions
        if (row := booked.get(line.id))
        and (row["net_minor"], row["currency"]) != (line.net_minor, line.currency)
    ]
    violations += [
        f"{id_} is booked, but Stripe does not know it"
        for id_, row in booked.items()
        if id_ not in at_stripe and row["booked_at"] <= view.read_from
    ]
    violations += [f"{_told(line)} is not booked" for line in overdue]
    for account in await rows(session, ledger.STRIPE_ACCOUNTS):
        currency = account["currency"]
        ours = sum(row["net_minor"] for row in booked.values() if row["currency"] == currency)
        if ours != account["minor"]:
            violations.append(
                f"the ledger's Stripe accounts hold {account['minor']} {currency}, its booked "
                f"balance transactions {ours}"
            )
    notes = [f"{_told(line)} is not booked yet" for line in unbooked if line not in overdue]
    if not view.is_stable:
        return Finding(violations, notes, unchecked=MOVED)
    return Finding(violations + _unexplained_balances(view), notes)


def _told(line: BalanceTransaction) -> str:
    return f"{line.id} ({line.type}, {line.net_minor} {line.currency})"


def _unexplained_balances(view: StripeView) -> list[str]:
    listed: dict[str, int] = defaultdict(int)
    for line in view.balance_transactions:
        listed[line.currency] += line.net_minor
    return [
        f"Stripe's balance is {view.total_minor(currency)} {currency}, its lines sum to "
        f"{listed[currency]}"
        for currency in sorted(listed.keys() | view.balances.keys())
        if listed[currency] != view.total_minor(currency)
    ]


async def coverage(session: AsyncSession, view: StripeView) -> Finding:
    """Cash at Stripe covers wallets, reserves, payables and what is in flight, per currency.

    A transfer, refund or withdrawal of ours that Stripe made and we have not booked yet has left its
    balance, but is still in flight here: it counts as cash until it is booked. What nobody here asked
    for is gone. What was booked after Stripe's balance was read moved both: it counts, too.
    """
    if not view.is_stable:
        return Finding(unchecked=MOVED)
    lines = await rows(
        session, "SELECT id, net_minor, currency, booked_at FROM booked_balance_transaction"
    )
    booked = {row["id"] for row in lines}
    at_stripe = {line.id for line in view.balance_transactions}
    cash: dict[str, int] = defaultdict(int)
    for currency in view.balances:
        cash[currency] = view.total_minor(currency)
    for row in lines:
        if row["booked_at"] > view.read_from and row["id"] not in at_stripe:
            cash[row["currency"]] += row["net_minor"]
    in_flight = {row["id"] for row in await rows(session, IN_FLIGHT)}
    for line in _lines_of(view, in_flight):
        if line.id not in booked:
            cash[line.currency] -= line.net_minor
    return Finding(
        [
            f"Stripe holds {cash[owed['currency']]} {owed['currency']}, {owed['minor']} are owed"
            for owed in await rows(session, ledger.OWED)
            if cash[owed["currency"]] < owed["minor"]
        ]
    )


def _lines_of(view: StripeView, in_flight: set[str]) -> Iterator[BalanceTransaction]:
    """What Stripe made of what is in flight here, and what it gave back of that since."""
    ids: set[str | None] = set()
    for transfer in view.transfers:
        if transfer.metadata.get("payout_id") in in_flight and not transfer.amount_reversed_minor:
            ids.add(transfer.balance_transaction_id)
    for payout in view.bank_payouts:
        if payout.metadata.get("withdrawal_id") in in_flight:
            ids |= {payout.balance_transaction_id, payout.failure_balance_transaction_id}
    for refund in view.refunds:
        if {refund.id, refund.metadata.get("refund_id")} & in_flight:
            ids |= {line.id for line in (refund.taken, refund.returned) if line is not None}
    return (line for line in view.balance_transactions if line.id in ids)
