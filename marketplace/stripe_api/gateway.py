"""The one door to Stripe: the only module that imports the `stripe` SDK.

Amounts go in and come out as integers in the currency's minor unit. Nothing here retries: whoever
asks holds the idempotency key, and asks again with the same one.
"""

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Self, TypeVar

import httpx
import stripe

from marketplace.shared.requests import parse_json
from marketplace.stripe_api.gateway_answers import (
    BalanceAmount,
    BalanceTransaction,
    BankPayout,
    ConnectedAccount,
    Deposit,
    DepositCheckout,
    Dispute,
    OnboardingLink,
    Refund,
    Reversal,
    Topup,
    Transfer,
    read_account,
    read_balance,
    read_balance_transaction,
    read_bank_payout,
    read_deposit,
    read_deposit_checkout,
    read_dispute,
    read_onboarding_link,
    read_refund,
    read_reversal,
    read_topup,
    read_transfer,
)
from marketplace.stripe_api.gateway_errors import (
    StripeBusy,
    StripeMisconfigured,
    StripeOutcomeUnknown,
    StripeRefused,
    WebhookRejected,
)
from marketplace.stripe_api.gateway_requests import (
    HttpClient,
    base_addresses,
    created,
    keyed,
    named,
    on,
    positive,
)
from marketplace.stripe_api.pace import Pace

TIMEOUT_SECONDS = 20.0
REQUESTS_PER_SECOND = 20
PAGE_SIZE = 100
BUSY_SECONDS = 1.0
WEBHOOK_AGE_SECONDS_MAX = 300
WEBHOOK_SKEW_SECONDS_MAX = 60
LINES_OF_A_REFUND = ("balance_transaction", "failure_balance_transaction")

stripe.enable_telemetry = False

Answer = TypeVar("Answer")


class StripeGateway:
    """One client with one connection pool, for one event loop; close it with `aclose`.

    Every method may raise `StripeRefused`, `StripeOutcomeUnknown`, `StripeBusy` and
    `StripeMisconfigured`. When a call is cancelled its outcome is unknown, too.
    """

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

    async def create_connected_account(
        self, *, email: str, country: str, metadata: dict[str, str], idempotency_key: str
    ) -> ConnectedAccount:
        """An account we pay into: Stripe collects its documents, we bear its losses and fees."""
        params: Any = {
            "email": email,
            "country": country,
            "metadata": metadata,
            "capabilities": {"transfers": {"requested": True}},
            "controller": {
                "fees": {"payer": "application"},
                "losses": {"payments": "application"},
                "stripe_dashboard": {"type": "express"},
            },
        }
        options = keyed(idempotency_key)
        async with self._asking():
            account = await self._stripe.v1.accounts.create_async(params, options)
            return read_account(*_opened(account))

    async def create_onboarding_link(
        self, *, account_id: str, return_url: str, refresh_url: str, idempotency_key: str
    ) -> OnboardingLink:
        """Works once and for minutes; that somebody comes back does not mean done."""
        params: Any = {
            "account": account_id,
            "return_url": return_url,
            "refresh_url": refresh_url,
            "type": "account_onboarding",
        }
        options = keyed(idempotency_key)
        async with self._asking():
            link = await self._stripe.v1.account_links.create_async(params, options)
            return read_onboarding_link(*_opened(link))

    async def retrieve_account(self, account_id: str) -> ConnectedAccount:
        known = named(account_id)
        async with self._asking():
            account = await self._stripe.v1.accounts.retrieve_async(known)
            return read_account(*_opened(account))

    async def create_deposit_checkout(
        self,
        *,
        amount_minor: int,
        currency: str,
        product_name: str,
        client_reference_id: str,
        metadata: dict[str, str],
        success_url: str,
        cancel_url: str,
        idempotency_key: str,
    ) -> DepositCheckout:
        """A hosted page for one payment. `metadata` is put on the session and on its payment.

        Names no payment method types: the pinned API version refuses them.
        """
        price = {
            "currency": currency.lower(),
            "unit_amount": positive(amount_minor),
            "product_data": {"name": product_name},
        }
        params: Any = {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "client_reference_id": client_reference_id,
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        options = keyed(idempotency_key)
        async with self._asking():
            session = await self._stripe.v1.checkout.sessions.create_async(params, options)
            return read_deposit_checkout(*_opened(session))

    async def retrieve_deposit(self, session_id: str) -> Deposit:
        params: Any = {"expand": ["payment_intent.latest_charge.balance_transaction"]}
        known = named(session_id)
        async with self._asking():
            session = await self._stripe.v1.checkout.sessions.retrieve_async(known, params)
            return read_deposit(*_opened(session))

    async def create_topup(
        self,
        *,
        amount_minor: int,
        currency: str,
        description: str,
        metadata: dict[str, str],
        idempotency_key: str,
    ) -> Topup:
        """The platform's own money into its Stripe balance."""
        params: Any = {
            "amount": positive(amount_minor),
            "currency": currency.lower(),
            "description": description,
            "metadata": metadata,
        }
        options = keyed(idempotency_key)
        async with self._asking():
            topup = await self._stripe.v1.topups.create_async(params, options)
            return read_topup(*_opened(topup))

    async def retrieve_topup(self, topup_id: str) -> Topup:
        known = named(topup_id)
        async with self._asking():
            topup = await self._stripe.v1.topups.retrieve_async(known)
            return read_topup(*_opened(topup))

    async def list_topups(self, *, created_from: datetime) -> AsyncIterator[Topup]:
        """Newest first, over as many pages as there are; `created_from` is inclusive."""
        listing = self._stripe.v1.topups.list_async
        async for topup in self._listed(listing, read_topup, created(created_from, None), None):
            yield topup

    async def create_refund(
        self,
        *,
        payment_intent_id: str,
        amount_minor: int,
        metadata: dict[str, str],
        idempotency_key: str,
    ) -> Refund:
        """Part of a payment back to who paid. After an unknown outcome only the same key."""
        params: Any = {
            "payment_intent": named(payment_intent_id),
            "amount": positive(amount_minor),
            "metadata": metadata,
            "expand": list(LINES_OF_A_REFUND),
        }
        options = keyed(idempotency_key)
        async with self._asking():
            refund = await self._stripe.v1.refunds.create_async(params, options)
            return read_refund(*_opened(refund))

    async def retrieve_refund(self, refund_id: str) -> Refund:
        params: Any = {"expand": list(LINES_OF_A_REFUND)}
        known = named(refund_id)
        async with self._asking():
            refund = await self._stripe.v1.refunds.retrieve_async(known, params)
            return read_refund(*_opened(refund))

    async def list_refunds(
        self, *, payment_intent_id: str | None = None, charge_id: str | None = None
    ) -> AsyncIterator[Refund]:
        """Of one payment, of one charge or all there are, newest first."""
        params: dict[str, Any] = {"expand": [f"data.{line}" for line in LINES_OF_A_REFUND]}
        if payment_intent_id is not None:
            params["payment_intent"] = named(payment_intent_id)
        if charge_id is not None:
            params["charge"] = named(charge_id)
        listing = self._stripe.v1.refunds.list_async
        async for refund in self._listed(listing, read_refund, params, None):
            yield refund

    async def retrieve_dispute(self, dispute_id: str) -> Dispute:
        params: Any = {"expand": ["payment_intent"]}
        known = named(dispute_id)
        async with self._asking():
            dispute = await self._stripe.v1.disputes.retrieve_async(known, params)
            return read_dispute(dispute.to_dict())

    async def list_disputes(
        self, *, created_from: datetime | None = None
    ) -> AsyncIterator[Dispute]:
        """Newest first, over as many pages as there are; `created_from` is inclusive."""
        params = {**created(created_from, None), "expand": ["data.payment_intent"]}
        listing = self._stripe.v1.disputes.list_async
        async for dispute in self._listed(listing, read_dispute, params, None):
            yield dispute

    async def balance(self, *, account_id: str | None = None) -> dict[str, BalanceAmount]:
        """By upper-case currency: the platform's, or one connected account's."""
        options = on(account_id)
        async with self._asking():
            balance = await self._stripe.v1.balance.retrieve_async(options=options)
            return read_balance(balance.to_dict())

    async def available_balance(self, currency: str) -> int:
        """What the platform could transfer right now, in minor units."""
        amounts = await self.balance()
        return amounts.get(currency.upper(), BalanceAmount()).available_minor

    async def send_transfer(
        self,
        *,
        amount_minor: int,
        currency: str,
        destination: str,
        transfer_group: str,
        metadata: dict[str, str],
        idempotency_key: str,
    ) -> Transfer:
        """Pays a connected account. After an unknown outcome only the same key may be used."""
        params: Any = {
            "amount": positive(amount_minor),
            "currency": currency.lower(),
            "destination": destination,
            "transfer_group": transfer_group,
            "metadata": metadata,
        }
        options = keyed(idempotency_key)
        async with self._asking():
            transfer = await self._stripe.v1.transfers.create_async(params, options)
            return read_transfer(*_opened(transfer))

    async def find_transfers(self, *, transfer_group: str) -> list[Transfer]:
        """Every transfer of the group, newest first."""
        params = {"transfer_group": named(transfer_group)}
        found = self._listed(self._stripe.v1.transfers.list_async, read_transfer, params, None)
        return [transfer async for transfer in found]

    async def list_transfers(self) -> AsyncIterator[Transfer]:
        """Every transfer there is, newest first, over as many pages as there are."""
        listing = self._stripe.v1.transfers.list_async
        async for transfer in self._listed(listing, read_transfer, {}, None):
            yield transfer

    async def pay_out_to_bank(
        self,
        *,
        amount_minor: int,
        currency: str,
        description: str,
        metadata: dict[str, str],
        idempotency_key: str,
    ) -> BankPayout:
        """The platform's own money to its bank. After an unknown outcome only the same key serves."""
        params: Any = {
            "amount": positive(amount_minor),
            "currency": currency.lower(),
            "description": description,
            "metadata": metadata,
        }
        options = keyed(idempotency_key)
        async with self._asking():
            payout = await self._stripe.v1.payouts.create_async(params, options)
            return read_bank_payout(*_opened(payout))

    async def retrieve_bank_payout(
        self, payout_id: str, *, account_id: str | None = None
    ) -> BankPayout:
        known, options = named(payout_id), on(account_id)
        async with self._asking():
            payout = await self._stripe.v1.payouts.retrieve_async(known, options=options)
            return read_bank_payout(*_opened(payout))

    async def list_bank_payouts(
        self, *, created_from: datetime | None = None, account_id: str | None = None
    ) -> AsyncIterator[BankPayout]:
        """Newest first, over as many pages as there are; `created_from` is inclusive."""
        listing = self._stripe.v1.payouts.list_async
        params = created(created_from, None)
        async for payout in self._listed(listing, read_bank_payout, params, account_id):
            yield payout

    async def reverse_transfer(
        self,
        *,
        transfer_id: str,
        amount_minor: int,
        metadata: dict[str, str],
        idempotency_key: str,
    ) -> Reversal:
        """Takes money of a transfer back, as far as the connected account's balance covers it."""
        params: Any = {"amount": positive(amount_minor), "metadata": metadata}
        options, known = keyed(idempotency_key), named(transfer_id)
        async with self._asking():
            create = self._stripe.v1.transfers.reversals.create_async
            return read_reversal(*_opened(await create(known, params, options)))

    async def find_reversals(self, transfer_id: str) -> list[Reversal]:
        """All that came back of one transfer, newest first."""
        known = named(transfer_id)

        def listing(params: Any, options: Any) -> Awaitable[Any]:
            return self._stripe.v1.transfers.reversals.list_async(known, params, options)

        return [reversal async for reversal in self._listed(listing, read_reversal, {}, None)]

    async def list_balance_transactions(
        self,
        *,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        account_id: str | None = None,
    ) -> AsyncIterator[BalanceTransaction]:
        """Newest first, over as many pages as there are; `created_from` is inclusive."""
        listing = self._stripe.v1.balance_transactions.list_async
        params = created(created_from, created_before)
        async for line in self._listed(listing, read_balance_transaction, params, account_id):
            yield line

    async def list_events(
        self,
        *,
        types: list[str] | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        account_id: str | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Newest first, whole event objects; Stripe keeps 30 days. At most 20 types."""
        params = created(created_from, created_before)
        if types is not None:
            params["types"] = types
        async for event in self._listed(
            self._stripe.v1.events.list_async, dict, params, account_id
        ):
            yield event

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
        await self._pace.turn()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except stripe.StripeError as error:
            raise _translated(error) from error
        except (TimeoutError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise StripeOutcomeUnknown(f"{type(error).__name__}: {error}") from error


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


def _http_client(timeout_seconds: float) -> stripe.HTTPXClient:
    """Through the SDK's seam for tests, the only way in; the SDK is pinned, and our tests watch."""
    library = types.SimpleNamespace(AsyncClient=HttpClient)
    return stripe.HTTPXClient(timeout=timeout_seconds, _lib=library)


def _opened(answer: Any) -> tuple[dict[str, Any], str | None]:
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


def _signed_at(signature: str) -> int:
    """The same first `t=` that the SDK signed with."""
    parts = (item.split("=", 2) for item in signature.split(","))
    return int(next(part[1] for part in parts if part[0] == "t"))
