"""Looking at many things at Stripe, one after the other: one that fails stops no other."""

import logging
from collections.abc import Awaitable
from typing import TypeVar

from marketplace.stripe_api.gateway_errors import (
    StripeBusy,
    StripeMisconfigured,
    StripeOutcomeUnknown,
    StripeRefused,
)

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

STRIPE_ERRORS = (StripeRefused, StripeOutcomeUnknown, StripeBusy, StripeMisconfigured)


async def or_later(asked: Awaitable[Answer], what: str) -> Answer | None:
    """The answer; None when Stripe gives none now, so that the next tick asks again."""
    try:
        return await asked
    except STRIPE_ERRORS as error:
        log.warning("%s could not be looked at: %s", what, error)
        return None
