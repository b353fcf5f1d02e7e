"""Announcing rates and reading their history."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.rates.models import MinimumRate, Rate, RateLineage
from marketplace.rates.schemas import RateAnswer, RateStatus
from marketplace.shared import audit, clock
from marketplace.shared.database import row, said, take_turns, violated
from marketplace.shared.money import display
from marketplace.shared.problems import Conflict, InvalidField

# The elicitation of the platform's own auditions.
AUDITION = "audition"
# Whatever lies further ahead is a slip of the pen, and could never be taken back.
LONGEST_NOTICE = timedelta(days=2 * 365)


class RateCutNeedsNotice(Conflict):
    """A lower rate needs at least 14 days' notice, and prices only claims made after it."""

    code = "rate_cut_needs_notice"


class RateBackdated(Conflict):
    """A rate takes effect a minute after its announcement at the earliest."""

    code = "rate_backdated"


class RateBelowMinimum(Conflict):
    """This rate is below the minimum hourly rate of its currency."""

    code = "rate_below_minimum"


async def lineage_for(
    session: AsyncSession,
    *,
    client_id: UUID | None,
    currency: str,
    elicitation: str,
    languages: Sequence[str],
    role_profile: str,
) -> RateLineage:
    """The lineage such jobs belong to, made at its first use. Names of jobs play no part."""
    identity = {
        "client_id": client_id,
        "currency": currency,
        "elicitation": elicitation,
        "languages": ",".join(sorted(set(languages))),
        "role_profile": role_profile,
    }
    await session.execute(
        sa.dialects.postgresql.insert(RateLineage)
        .values(**identity)
        .on_conflict_do_nothing(constraint="uq_rate_lineage_identity")
    )
    conditions = [
        getattr(RateLineage, name).is_not_distinct_from(value) for name, value in identity.items()
    ]
    found = await session.exec(select(RateLineage).where(*conditions, RateLineage.separation == 0))
    return found.one()


async def hold_lineage(session: AsyncSession, lineage_id: UUID, *, shared: bool = False) -> None:
    """First of all locks: who announces holds it alone, who reserves at its rates shares it.

    So no role can open with a reserve that an announcement in the same moment makes too small.
    """
    await take_turns(session, "rates", lineage_id, shared=shared)


async def separate(session: AsyncSession, lineage: RateLineage, *, reason: str) -> RateLineage:
    """A lineage of its own for jobs that only look alike; the recorded reason is public."""
    # Two at once must not take the same number.
    await take_turns(session, "separations", lineage.client_id)
    last = await session.scalar(
        select(sa.func.max(RateLineage.separation)).where(
            col(RateLineage.client_id).is_not_distinct_from(lineage.client_id),
            RateLineage.currency == lineage.currency,
            RateLineage.elicitation == lineage.elicitation,
            RateLineage.languages == lineage.languages,
            RateLineage.role_profile == lineage.role_profile,
        )
    )
    separated = RateLineage(
        client_id=lineage.client_id,
        currency=lineage.currency,
        elicitation=lineage.elicitation,
        languages=lineage.languages,
        role_profile=lineage.role_profile,
        separation=int(last or 0) + 1,
        separation_reason=reason,
    )
    session.add(separated)
    await session.flush()
    await audit.record(
        session, subject=("rate_lineage", separated.id), action="separated", reason=reason
    )
    return separated


async def announce(
    session: AsyncSession,
    *,
    lineage: RateLineage,
    rate_minor_per_hour: int,
    reason: str,
    announced_by: UUID,
    effective_from: datetime | None = None,
) -> Rate:
    """Append a rate row. Whoever holds roles open at this lineage must reserve a rise for them."""
    if effective_from is not None and effective_from > await clock.now(session) + LONGEST_NOTICE:
        raise InvalidField("body.effective_from", "lies more than two years (730 days) ahead")
    await require_minimum(session, lineage.currency, rate_minor_per_hour)
    # For NULL the database takes the earliest moment that is allowed; left out, the column's
    # default would be now, which is too early for all but the first rate.
    given: dict[str, Any] = {"effective_from": effective_from or sa.null()}
    rate = Rate(
        lineage_id=lineage.id,
        currency=lineage.currency,
        rate_minor_per_hour=rate_minor_per_hour,
        reason=reason,
        announced_by=announced_by,
        **given,
    )
    session.add(rate)
    try:
        await session.flush()
    except sa.exc.IntegrityError as error:
        if violated(error) == "rate_cut_needs_notice":
            raise RateCutNeedsNotice from error
        if violated(error) == "rate_backdated":
            raise RateBackdated from error
        if violated(error) == "rate_below_alike":
            raise _below_alike(int(said(error)), lineage.id) from error
        raise
    await session.refresh(rate)
    await audit.record(session, subject=("rate", rate.id), action="announced", reason=reason)
    return rate


async def require_minimum(session: AsyncSession, currency: str, rate_minor_per_hour: int) -> None:
    minimum = await minimum_rate(session, currency)
    if minimum is not None and rate_minor_per_hour < minimum.rate_minor_per_hour:
        raise RateBelowMinimum(
            f"The minimum is {display(minimum.rate_minor_per_hour, currency)} per hour.",
            minimum_rate_minor_per_hour=minimum.rate_minor_per_hour,
        )


async def minimum_rate(session: AsyncSession, currency: str) -> MinimumRate | None:
    found = await session.exec(
        select(MinimumRate)
        .where(MinimumRate.currency == currency)
        .where(col(MinimumRate.effective_from) <= sa.func.marketplace_now())
        .order_by(col(MinimumRate.effective_from).desc(), col(MinimumRate.id).desc())
        .limit(1)
    )
    return found.first()


async def set_minimum(
    session: AsyncSession, *, currency: str, rate_minor_per_hour: int, reason: str, set_by: UUID
) -> MinimumRate:
    minimum = MinimumRate(
        currency=currency, rate_minor_per_hour=rate_minor_per_hour, reason=reason, set_by=set_by
    )
    session.add(minimum)
    await session.flush()
    await audit.record(session, subject=("minimum_rate", minimum.id), action="set", reason=reason)
    return minimum


async def rate_at(session: AsyncSession, lineage_id: UUID, at: datetime) -> Rate | None:
    """The rate in force at a moment, as far as it is announced by now."""
    found = await session.exec(
        select(Rate)
        .where(Rate.lineage_id == lineage_id, Rate.effective_from <= at)
        .order_by(col(Rate.effective_from).desc(), col(Rate.number).desc())
        .limit(1)
    )
    return found.first()


async def require_as_much_as_alike(session: AsyncSession, lineage_id: UUID) -> None:
    """No work opens in a lineage that pays less than others whose jobs the same performers see.

    A new lineage's first rate is held to the same by the database: see `paid_for_alike` in
    `migrations/versions/0003_guards.sql`.
    """
    paid = await session.scalar(sa.text("SELECT paid_for_alike(:lineage)"), {"lineage": lineage_id})
    if paid is not None:
        raise _below_alike(paid, lineage_id)


def _below_alike(paid: int, lineage_id: UUID) -> RateCutNeedsNotice:
    return RateCutNeedsNotice(
        f"For your jobs of this elicitation the same performers are paid {paid} per hour (minor "
        "units), now or as announced. Pay as much, announce a cut of that rate with 14 days' notice "
        "and wait for it, or have an operator record on a draft why it is of another kind.",
        rate_minor_per_hour=paid,
        lineage_id=str(lineage_id),
    )


async def highest_rate_ahead(session: AsyncSession, lineage_id: UUID) -> int | None:
    """The highest hourly rate that a claim made from now on can lock: what reserves must cover."""
    found = await row(
        session,
        "SELECT max(rate_minor_per_hour) AS highest FROM rate WHERE lineage_id = :lineage"
        " AND (effective_from > marketplace_now()"
        "  OR id = (SELECT id FROM rate WHERE lineage_id = :lineage"
        "   AND effective_from <= marketplace_now()"
        "   ORDER BY effective_from DESC, number DESC LIMIT 1))",
        lineage=lineage_id,
    )
    return found["highest"] if found else None


async def history(
    session: AsyncSession, lineage_id: UUID, *, announced_by: datetime | None = None
) -> list[RateAnswer]:
    """The whole history in order of effect; with a time, as it was announced by then."""
    query = select(Rate).where(Rate.lineage_id == lineage_id)
    if announced_by is not None:
        query = query.where(Rate.announced_at <= announced_by)
    found = await session.exec(query.order_by(col(Rate.effective_from), col(Rate.number)))
    at = announced_by or await clock.now(session)
    return described(list(found), at)


def described(rates: list[Rate], at: datetime) -> list[RateAnswer]:
    """Rows in order of effect, each with its status at a time and its change against the last."""
    effective = [rate for rate in rates if rate.effective_from <= at]
    in_force = effective[-1].id if effective else None
    answers = []
    previous: Rate | None = None
    for rate in rates:
        answers.append(_answer(rate, previous, in_force, at))
        previous = rate
    return answers


def _answer(rate: Rate, previous: Rate | None, in_force: UUID | None, at: datetime) -> RateAnswer:
    status = RateStatus.SUPERSEDED
    if rate.effective_from > at:
        status = RateStatus.ANNOUNCED
    elif rate.id == in_force:
        status = RateStatus.IN_FORCE
    return RateAnswer(
        **rate.model_dump(),
        status=status,
        previous_rate_minor_per_hour=previous.rate_minor_per_hour if previous else None,
        change_percent=_percent(previous.rate_minor_per_hour, rate.rate_minor_per_hour)
        if previous
        else None,
    )


def _percent(before: int, after: int) -> str:
    change = Decimal(after - before) * 100 / Decimal(before)
    return str(change.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP))
