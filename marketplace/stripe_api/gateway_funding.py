"""What clients and the platform itself pay in, and what goes back to them."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from marketplace.stripe_api.gateway_answers import (
    Deposit,
    DepositCheckout,
    Dispute,
    Refund,
    Topup,
    read_deposit,
    read_deposit_checkout,
    read_dispute,
    read_refund,
    read_topup,
)
from marketplace.stripe_api.gateway_calls import Calls, opened
from marketplace.stripe_api.gateway_requests import created, keyed, named, positive

LINES_OF_A_REFUND = ("balance_transaction", "failure_balance_transaction")


class FundingCalls(Calls):
    """Deposits, top-ups, refunds and disputes."""

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
            return read_deposit_checkout(*opened(session))

    async def retrieve_deposit(self, session_id: str) -> Deposit:
        params: Any = {"expand": ["payment_intent.latest_charge.balance_transaction"]}
        known = named(session_id)
        async with self._asking():
            session = await self._stripe.v1.checkout.sessions.retrieve_async(known, params)
            return read_deposit(*opened(session))

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
            return read_topup(*opened(topup))

    async def retrieve_topup(self, topup_id: str) -> Topup:
        known = named(topup_id)
        async with self._asking():
            topup = await self._stripe.v1.topups.retrieve_async(known)
            return read_topup(*opened(topup))

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
            return read_refund(*opened(refund))

    async def retrieve_refund(self, refund_id: str) -> Refund:
        params: Any = {"expand": list(LINES_OF_A_REFUND)}
        known = named(refund_id)
        async with self._asking():
            refund = await self._stripe.v1.refunds.retrieve_async(known, params)
            return read_refund(*opened(refund))

    async def list_refunds(self, *, payment_intent_id: str | None = None) -> AsyncIterator[Refund]:
        """Of one payment or all there are, newest first."""
        params: dict[str, Any] = {"expand": [f"data.{line}" for line in LINES_OF_A_REFUND]}
        if payment_intent_id is not None:
            params["payment_intent"] = named(payment_intent_id)
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
