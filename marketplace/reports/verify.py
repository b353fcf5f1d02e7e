"""`marketplace verify`: every invariant, checked on the live database and at Stripe itself.

Each check answers its violations, one line each; none is "ok". What concerns Stripe is read
through its HTTP API only: a balanced ledger alone does not prove that anybody was paid once.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.recordings.storage import Storage
from marketplace.reports.checks import (
    at_stripe,
    claims,
    earnings,
    entries,
    ledger,
    queues,
    sealed,
    states,
    trail,
)
from marketplace.reports.checks.at_stripe import Finding, StripeView
from marketplace.shared import clock, sweeps
from marketplace.shared.database import Sessions, rows, take_as_long_as_it_takes
from marketplace.stripe_api.gateway import StripeGateway

log = logging.getLogger(__name__)

Findings = Mapping[str, Finding]


@dataclass(frozen=True)
class Outside:
    """What is kept outside the database; read before it."""

    stripe: StripeView
    seal: sealed.Kept


Check = Callable[[AsyncSession, Outside], Awaitable[Finding]]


async def verify(sessions: Sessions, gateway: StripeGateway, storage: Storage) -> Findings:
    """Every invariant, by its name. Reads only; safe on a busy system."""
    async with sessions() as session:
        read_from = await clock.settle_writes(session)
    outside = Outside(
        await at_stripe.look_at_stripe(gateway, read_from), await sealed.look_at_files(storage)
    )
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        await take_as_long_as_it_takes(session)
        return {name: await check(session, outside) for name, (_, check) in CHECKS.items()}


async def watch(sessions: Sessions, gateway: StripeGateway, storage: Storage) -> int:
    """Once an hour, whatever number of processes tick: each violation is an error in the log.

    An hour counts when its look is over: one that failed is tried again ten minutes later. Answers
    how many there are.
    """
    if not await sweeps.may_try(sessions, "verify"):
        return 0
    found = await verify(sessions, gateway, storage)
    await sweeps.take_hour(sessions, "verify")
    for name, finding in found.items():
        for violation in finding.violations:
            log.error("%s is violated: %s", name, violation)
        if finding.unchecked:
            log.warning("%s is not checked: %s", name, finding.unchecked)
    return sum(len(finding.violations) for finding in found.values())


def exit_code(found: Findings) -> int:
    """0 all hold, 1 something is violated, 3 nothing is, but not all could be checked."""
    if any(finding.violations for finding in found.values()):
        return 1
    return 0 if all(finding.holds for finding in found.values()) else 3


def summary(found: Findings) -> dict[str, str]:
    return {
        name: "; ".join(finding.violations) or finding.unchecked or "ok"
        for name, finding in found.items()
    }


def lines(found: Findings) -> list[str]:
    """One line per invariant, followed by what violates it and by what is worth a look."""
    text = []
    for name, finding in found.items():
        mark = "FAIL" if finding.violations else "?" if finding.unchecked else "ok"
        text.append(f"{mark:4} {name:9} {CHECKS[name][0]}")
        told = [*finding.violations, *filter(None, [finding.unchecked])]
        text += [f"     {line}" for line in told]
        text += [f"     note: {note}" for note in finding.notes]
    return text


async def _seal(session: AsyncSession, outside: Outside) -> Finding:
    return await sealed.whole(session, outside.seal)


async def _pay_by(session: AsyncSession, _outside: Outside) -> Finding:
    found = await rows(session, earnings.PAY_BY)
    return Finding(
        violations=[row["found"] for row in found if not row["is_past"]],
        notes=[row["found"] for row in found if row["is_past"]],
    )


def _query(*statements: str) -> Check:
    """A check that is made of statements: each row they answer (`violation`) is one."""

    async def check(session: AsyncSession, _outside: Outside) -> Finding:
        found = [row for sql in statements for row in await rows(session, sql)]
        return Finding([str(row["violation"]) for row in found])

    return check


def _beside(look: Callable[[AsyncSession, StripeView], Awaitable[Finding]]) -> Check:
    """A check of our books beside Stripe's."""

    async def check(session: AsyncSession, outside: Outside) -> Finding:
        return await look(session, outside.stripe)

    return check


CHECKS: dict[str, tuple[str, Check]] = {
    "I1": (
        "one transfer at Stripe per payout, one refund per refund, as approved",
        _beside(at_stripe.single_transfer),
    ),
    "I2": ("every paid second in one payout line at most, the rest payable", _query(earnings.I2)),
    "I3": ("the ledger balances; guarded balances equal their entries", _query(ledger.I3)),
    "I4": ("Stripe's balance equals the ledger's, line by line", _beside(at_stripe.stripe_balance)),
    "I5": (
        "every cent leads from Stripe to the seconds and the rate behind it",
        _query(trail.I5, trail.I5_TIME, entries.I5_ENTRIES),
    ),
    "I6": ("live claims fit their roles; counters are right", _query(claims.I6)),
    "I9": ("one effect per Stripe event", _query(states.I9)),
    "I10": ("every scheduled payout run was drafted", _query(queues.I10)),
    "I11": ("states moved only as their table allows", _query(states.I11)),
    "I12": ("what is sealed is as it was, and goes on from the head that is kept", _seal),
    "I13": ("nothing waits more than five minutes past its time", _query(queues.I13)),
    "I14": ("clearing accounts return to zero, source by source", _query(ledger.I14)),
    "I15": (
        "one payout at Stripe per withdrawal, as approved",
        _beside(at_stripe.single_bank_payout),
    ),
    "coverage": ("cash covers all that is owed", _beside(at_stripe.coverage)),
    "pay-by": ("no pay-by date passed without a stated reason", _pay_by),
}
