"""Clients' money coming in, by card and by bank debit, and the platform's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model.books import (
    AVAILABLE,
    CAPITAL,
    PENDING,
    PLATFORM,
    STRIPE_FEES,
    card_fee_on,
    wallet,
)
from tests.money_model.stage import ANY, Stage, picked
from tests.world import Json

# As the sandbox is set: a bank takes four days, and what came in is pending for two.
BANK_TAKES = timedelta(days=4)
PENDING_FOR = timedelta(days=2)
# Enough for a sequence; more would only draw attention from what becomes of them.
MOST_DEPOSITS = 7
MOST_TOPUPS = 3


@dataclass
class Deposit:
    id: str
    client_id: str
    amount_minor: int
    # When the money is at Stripe; never, if it was declined or will bounce.
    paid_at: datetime | None
    is_at_stripe: bool = False
    is_credited: bool = False
    is_available: bool = False

    @property
    def fee_minor(self) -> int:
        return card_fee_on(self.amount_minor)

    @property
    def net_minor(self) -> int:
        return self.amount_minor - self.fee_minor

    @property
    def available_on(self) -> datetime | None:
        return self.paid_at + PENDING_FOR if self.paid_at else None


class Deposits(Stage):
    def __init__(self) -> None:
        super().__init__()
        self.deposits: list[Deposit] = []
        self.topups = 0

    def both_clients_pay(self, *, capital_minor: int, noticed: bool) -> None:
        """Something to begin with: enough, or hardly."""
        for client, amount_minor in enumerate([100_000, 2_000]):
            self.a_client_pays(client, amount_minor, "card", noticed)
        if capital_minor:
            self.the_platform_adds_its_own(capital_minor)

    @precondition(lambda self: len(self.deposits) < MOST_DEPOSITS)
    @rule(
        client=ANY,
        amount_minor=st.sampled_from([50, 1_000, 4_999, 20_017, 100_000]),
        outcome=st.sampled_from(
            ["card", "card", "bank_debit", "card_declined", "bank_debit_bounced"]
        ),
        noticed=st.booleans(),
    )
    def a_client_pays(self, client: int, amount_minor: int, outcome: str, noticed: bool) -> None:
        now = self.steady()
        payer = picked(self.cast.clients, client)
        asked = {"amount_minor": amount_minor, "success_url": "https://acme.example/wallet"}
        deposit: Json = payer.post("/v1/wallet/deposits", asked)
        self.world.stripe.complete(deposit["checkout_url"], outcome)
        paid_at = {"card": now, "bank_debit": now + BANK_TAKES}.get(outcome)
        self.deposits.append(Deposit(deposit["id"], payer.id, amount_minor, paid_at))
        self.happened_at_stripe(now)
        if noticed:
            self.world.advance(60)
            self.swept(("poll_deposits",))

    @precondition(lambda self: self.topups < MOST_TOPUPS)
    @rule(amount_minor=st.sampled_from([100, 5_000, 100_000]))
    def the_platform_adds_its_own(self, amount_minor: int) -> None:
        now = self.steady()
        topup = self.cast.finn.post("/v1/topups", {"amount_minor": amount_minor, "currency": "USD"})
        assert topup["state"] == "succeeded"
        self.topups += 1
        self.stripe.add(PLATFORM, amount_minor, now)
        self.books.book(amount_minor, AVAILABLE, CAPITAL)

    def dues(self) -> Iterator[datetime]:
        yield from super().dues()
        for deposit in self.deposits:
            if deposit.paid_at and deposit.available_on:
                yield deposit.paid_at
                yield deposit.available_on

    def happened_at_stripe(self, now: datetime) -> None:
        super().happened_at_stripe(now)
        for deposit in self.deposits:
            if not deposit.is_at_stripe and deposit.paid_at and deposit.paid_at <= now:
                assert deposit.available_on
                deposit.is_at_stripe = True
                self.stripe.add(PLATFORM, deposit.net_minor, deposit.available_on)

    def sweep_poll_deposits(self, now: datetime) -> None:
        for deposit in self.deposits:
            if deposit.is_at_stripe and not deposit.is_credited:
                deposit.is_credited = True
                self.books.book(deposit.net_minor, PENDING, wallet(deposit.client_id))
                self.books.book(deposit.fee_minor, STRIPE_FEES, wallet(deposit.client_id))

    def sweep_inbox(self, now: datetime) -> None:
        super().sweep_inbox(now)
        self.sweep_poll_deposits(now)

    def sweep_funds(self, now: datetime) -> None:
        for deposit in self.deposits:
            is_due = deposit.available_on is not None and deposit.available_on <= now
            if deposit.is_credited and is_due and not deposit.is_available:
                deposit.is_available = True
                self.books.book(deposit.net_minor, AVAILABLE, PENDING)
