"""What can come of asking Stripe for something, when it is not done.

The difference decides whether a payout may be tried again under another key, so it is drawn with
care: only a refusal that proves that nothing happened is called refused.
"""

# The codes of a look-up that names nothing which our key can see.
NO_SUCH_OBJECT = ("resource_missing", "account_invalid")


class StripeRefused(Exception):
    """Stripe refused the request for good: this call had no effect.

    `code` is Stripe's (`balance_insufficient`, `resource_missing` …) or '' when it gave none.
    """

    def __init__(
        self, code: str, message: str, *, request_id: str | None, http_status: int
    ) -> None:
        super().__init__(f"{code or http_status}: {message}")
        self.code = code
        self.message = message
        self.request_id = request_id
        self.http_status = http_status


class StripeOutcomeUnknown(Exception):
    """No answer that proves what happened: ask again with the same key, or look it up."""

    def __init__(
        self, message: str, *, request_id: str | None = None, http_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.http_status = http_status


class StripeBusy(Exception):
    """Stripe was too busy: this call had no effect, and wants the same key again later.

    An earlier call with that key may still have had one.
    """

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StripeMisconfigured(Exception):
    """Stripe does not accept our API key, or the key may not do this: an operator must act.

    This call had no effect; an earlier one with the same idempotency key may have had one.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class WebhookRejected(Exception):
    """The webhook is not provably Stripe's, or not recent."""
