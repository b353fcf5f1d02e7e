"""How Stripe is called: one client, bounded in time and pace, every way to fail one of four."""

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self, TypeVar

import httpx
import stripe

from marketplace.stripe_api.gateway_errors import (
    StripeBusy,
    StripeMisconfigured,
    StripeOutcomeUnknown,
    StripeRefused,
)
from marketplace.stripe_api.gateway_requests import HttpClient, base_addresses, on
from marketplace.stripe_api.pace import Pace

TIMEOUT_SECONDS = 20.0
REQUESTS_PER_SECOND = 20
PAGE_SIZE = 100
BUSY_SECONDS = 1.0

stripe.enable_telemetry = False

Answer = TypeVar("Answer")


class Calls:
    """One client with one connection pool, for one event loop; close it with `aclose`."""

    def __init__(
        self,
        *,
        api_key: str,
        api_base: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        pace: Pace | None = None,
    ) -> None:
        """`api_base` leads all traffic to the sandbox; a live key is never sent there."""
        if not api_key:
            raise ValueError("a Stripe API key is required")
        if api_base is not None and not api_key.startswith("sk_test_"):
            raise ValueError("only a test key may be sent to an address that is not Stripe's")
        self._timeout_seconds = timeout_seconds
        self._pace = pace or Pace(REQUESTS_PER_SECOND)
        self._http = _http_client(timeout_seconds)
        self._stripe = stripe.StripeClient(
            api_key,
            base_addresses=base_addresses(api_base),
            max_network_retries=0,
            http_client=self._http,
        )

    async def aclose(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _listed(
        self,
        list_async: Callable[..., Awaitable[Any]],
        read: Callable[[dict[str, Any]], Answer],
        filters: dict[str, Any],
        account_id: str | None,
    ) -> AsyncIterator[Answer]:
        """Pages by hand: each page is one question of its own, with its own errors and time."""
        params, options = {**filters, "limit": PAGE_SIZE}, on(account_id)
        while True:
            async with self._asking():
                page = await list_async(params, options)
                answers = [read(item.to_dict()) for item in page.data]
                more = page.has_more
                params["starting_after"] = page.data[-1].id if page.data else None
            for answer in answers:
                yield answer
            if not more or not answers:
                return

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Bounds the whole call in time and turns every way to fail into one of our four.

        An answer we cannot read is an unknown outcome as well: the effect may be there.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                # In time, too: whoever asks has looked at the clock just before.
                await self._pace.turn()
                yield
        except stripe.StripeError as error:
            raise _translated(error) from error
        except (TimeoutError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise StripeOutcomeUnknown(f"{type(error).__name__}: {error}") from error


def _http_client(timeout_seconds: float) -> stripe.HTTPXClient:
    """Through the SDK's seam for tests, the only way in; the SDK is pinned, and our tests watch."""
    library = types.SimpleNamespace(AsyncClient=HttpClient)
    return stripe.HTTPXClient(timeout=timeout_seconds, _lib=library)


def opened(answer: Any) -> tuple[dict[str, Any], str | None]:
    return answer.to_dict(), answer.last_response.request_id


def _translated(error: stripe.StripeError) -> Exception:
    """Only 400, 402 and 404 in Stripe's own shape prove that nothing happened.

    A key that was used with other parameters (`IdempotencyError`) proves nothing about what those
    did; 409 means that the first request with the key is still running.
    """
    message = str(error)
    match error:
        case stripe.AuthenticationError() | stripe.PermissionError():
            # The SDK leaves `code` out of these two.
            code = error.error.code if error.error else None
            return StripeMisconfigured(message, code=code or "")
        case stripe.RateLimitError():
            return StripeBusy(message, retry_after_seconds=_retry_after_seconds(error))
        case stripe.CardError() | stripe.InvalidRequestError() if error.http_status:
            return StripeRefused(
                error.code or "",
                error.user_message or message,
                request_id=error.request_id,
                http_status=error.http_status,
            )
    return StripeOutcomeUnknown(message, request_id=error.request_id, http_status=error.http_status)


def _retry_after_seconds(error: stripe.StripeError) -> float:
    headers = httpx.Headers(dict(error.headers or {}))
    try:
        return max(0.0, float(headers.get("retry-after", BUSY_SECONDS)))
    except ValueError:
        return BUSY_SECONDS
