"""What goes out: to performers' accounts at Stripe, and from Stripe to banks."""

from collections.abc import AsyncIterator, Awaitable
from datetime import datetime
from typing import Any

from marketplace.stripe_api.gateway_answers import (
    BankPayout,
    ConnectedAccount,
    OnboardingLink,
    Reversal,
    Transfer,
    read_account,
    read_bank_payout,
    read_onboarding_link,
    read_reversal,
    read_transfer,
)
from marketplace.stripe_api.gateway_calls import Calls, opened
from marketplace.stripe_api.gateway_requests import created, keyed, named, on, positive


class PayoutCalls(Calls):
    """Connected accounts, transfers and their reversals, bank payouts."""

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
            return read_account(*opened(account))

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
            return read_onboarding_link(*opened(link))

    async def retrieve_account(self, account_id: str) -> ConnectedAccount:
        known = named(account_id)
        async with self._asking():
            account = await self._stripe.v1.accounts.retrieve_async(known)
            return read_account(*opened(account))

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
            return read_transfer(*opened(transfer))

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
            return read_bank_payout(*opened(payout))

    async def retrieve_bank_payout(
        self, payout_id: str, *, account_id: str | None = None
    ) -> BankPayout:
        known, options = named(payout_id), on(account_id)
        async with self._asking():
            payout = await self._stripe.v1.payouts.retrieve_async(known, options=options)
            return read_bank_payout(*opened(payout))

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
            return read_reversal(*opened(await create(known, params, options)))

    async def find_reversals(self, transfer_id: str) -> list[Reversal]:
        """All that came back of one transfer, newest first."""
        known = named(transfer_id)

        def listing(params: Any, options: Any) -> Awaitable[Any]:
            return self._stripe.v1.transfers.reversals.list_async(known, params, options)

        return [reversal async for reversal in self._listed(listing, read_reversal, {}, None)]
