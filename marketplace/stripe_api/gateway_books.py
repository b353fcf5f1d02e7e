"""Stripe's own books: balances, their lines, and events."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from marketplace.stripe_api.gateway_answers import (
    BalanceAmount,
    BalanceTransaction,
    read_balance,
    read_balance_transaction,
)
from marketplace.stripe_api.gateway_calls import Calls
from marketplace.stripe_api.gateway_requests import created, on


class BookCalls(Calls):
    """What Stripe has, and what happened there."""

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
