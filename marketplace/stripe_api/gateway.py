"""The one door to Stripe: these `gateway` modules alone import the `stripe` SDK.

Amounts go in and come out as integers in the currency's minor unit. Nothing here retries: whoever
asks holds the idempotency key, and asks again with the same one.
"""

from datetime import datetime
from typing import Any

import stripe

from marketplace.shared.requests import parse_json
from marketplace.stripe_api.gateway_books import BookCalls
from marketplace.stripe_api.gateway_errors import WebhookRejected
from marketplace.stripe_api.gateway_funding import FundingCalls
from marketplace.stripe_api.gateway_payouts import PayoutCalls

WEBHOOK_AGE_SECONDS_MAX = 300
WEBHOOK_SKEW_SECONDS_MAX = 60


class StripeGateway(FundingCalls, PayoutCalls, BookCalls):
    """Whatever is asked of Stripe.

    Every method may raise `StripeRefused`, `StripeOutcomeUnknown`, `StripeBusy` and
    `StripeMisconfigured`. When a call is cancelled its outcome is unknown, too.
    """


def verify_webhook(
    raw_body: bytes, signature: str | None, *, secret: str, now: datetime
) -> dict[str, Any]:
    """The event, once the raw bytes are proven to be Stripe's and recent by the product's clock.

    The SDK takes its time from the system, and any time from the future; so it only checks the
    signature here, and we the time. Raises `WebhookRejected`.
    """
    if not secret.strip():
        raise WebhookRejected("no webhook secret is configured")
    try:
        stripe.WebhookSignature.verify_header(raw_body, signature, secret, tolerance=None)
        age_seconds = now.timestamp() - _signed_at(signature or "")
        event = parse_json(raw_body)
    except (stripe.SignatureVerificationError, ValueError, TypeError) as error:
        raise WebhookRejected(str(error)) from error
    if age_seconds > WEBHOOK_AGE_SECONDS_MAX:
        raise WebhookRejected(f"signed {age_seconds:.0f} s ago")
    if age_seconds < -WEBHOOK_SKEW_SECONDS_MAX:
        raise WebhookRejected(f"signed {-age_seconds:.0f} s in the future")
    if not isinstance(event, dict) or event.get("object") != "event":
        raise WebhookRejected("not an event")
    return event


def _signed_at(signature: str) -> int:
    """The same first `t=` that the SDK signed with."""
    parts = (item.split("=", 2) for item in signature.split(","))
    return int(next(part[1] for part in parts if part[0] == "t"))
