"""Looking at many things at Stripe, one after the other: one that fails stops no other."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.shared import audit, sweeps
from marketplace.shared.database import Sessions
from marketplace.stripe_api.gateway_errors import (
    StripeBusy,
    StripeMisconfigured,
    StripeOutcomeUnknown,
    StripeRefused,
)

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

STRIPE_ERRORS = (StripeRefused, StripeOutcomeUnknown, StripeBusy, StripeMisconfigured)


async def look_at_each(
    sessions: Sessions,
    ids: Sequence[str],
    retrieve: Callable[[str], Awaitable[Answer]],
    note: Callable[[AsyncSession, Answer], Awaitable[None]],
) -> int:
    """Retrieve each outside any transaction, note it in one; answers how many were noted."""
    noted = 0
    for stripe_id in ids:
        with sweeps.one_row("poll", stripe_id):
            seen = await _or_later(retrieve(stripe_id), stripe_id)
            if seen is None:
                continue
            async with sessions() as session:
                await audit.act_as(session, "sweep:poll")
                await note(session, seen)
                await session.commit()
            noted += 1
    return noted


async def _or_later(asked: Awaitable[Answer], what: str) -> Answer | None:
    """The answer; None when Stripe gives none now, so that the next tick asks again."""
    try:
        return await asked
    except STRIPE_ERRORS as error:
        log.warning("%s could not be looked at: %s", what, error)
        return None
