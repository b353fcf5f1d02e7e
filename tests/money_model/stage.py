"""What all rules stand on: a world of their own, its clock, its sweeps, and the comparison."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.money_model.books import Account, Books, StripeSide
from tests.world import DAY, HOUR, Client, Person, World

Item = TypeVar("Item")

# Nothing falls due while a rule is at work: it takes less than this, by either clock.
STEADY = timedelta(minutes=15)
# Sweeps that do so much at a time, and are due again until nothing is left.
IN_BATCHES = frozenset({"inbox"})
# Everybody stays signed in: tokens last for 90 days.
MOST_HOURS = 800
ANY = st.integers(0, 11)

# Reads each account of the ledger, under the name that the model has for whose it is.
BALANCES = """
    SELECT account.kind,
           coalesce(role.id::text, claim.id::text, account.owner_id::text, '') AS owner,
           sum(entry.amount_minor)::bigint AS minor,
           min(guarded.balance_minor) AS guarded_minor
    FROM account
    JOIN ledger_entry AS entry ON entry.account_id = account.id
    LEFT JOIN account_balance AS guarded ON guarded.account_id = account.id
    LEFT JOIN role ON role.reservation_id = account.owner_id
    LEFT JOIN claim ON claim.reservation_id = account.owner_id
    WHERE account.currency = 'USD'
    GROUP BY 1, 2
"""


@dataclass
class Cast:
    """Who is there when a sequence begins; nobody has any money yet."""

    clients: list[Client]
    performers: list[Person]
    applicants: list[Person]
    reviewers: list[Person]
    finn: Person
    fay: Person
    olga: Person
    # Connected account at Stripe by performer; who has none yet is missing.
    accounts: dict[str, str]


def picked(items: list[Item], number: int) -> Item:
    return items[number % len(items)]


class Stage(RuleBasedStateMachine):
    """The clock, sweeps, and what must agree after every step."""

    opened: ClassVar[Callable[[], AbstractContextManager[tuple[World, Cast]]]]

    def __init__(self) -> None:
        super().__init__()
        self._held = ExitStack()
        self.world, self.cast = self._held.enter_context(type(self).opened())
        self.books = Books()
        self.stripe = StripeSide()
        self.hours_passed = 0

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.come_to_rest()
        finally:
            self._held.__exit__(*sys.exc_info())

    # time

    def dues(self) -> Iterator[datetime]:
        """Moments at which something changes by itself, or by a sweep."""
        yield from ()

    def steady(self) -> datetime:
        """Now, at a moment after which nothing falls due for a while."""
        now = self.world.now
        while any(now < due <= now + STEADY for due in self.dues()):
            self.world.advance(STEADY.total_seconds())
            now = self.world.now
        self.happened_at_stripe(now)
        return now

    def happened_at_stripe(self, now: datetime) -> None:
        """What Stripe did by itself by now."""

    def sweep_inbox(self, now: datetime) -> None:
        """What Stripe's events tell, all at once."""

    def swept(self, names: tuple[str, ...]) -> None:
        """Run sweeps, and let the model do what each of them must do."""
        for name in names:
            now = self.steady()
            while self.world.sweep(name) and name in IN_BATCHES:
                pass
            effect: Any = getattr(self, f"sweep_{name}", None)
            if effect is not None:
                effect(now)

    def swept_in_order(
        self, sweep: str, table: str, fault: str | None, path: str
    ) -> tuple[list[str], datetime]:
        """Run a sweep that asks Stripe; answers what was due, in its order, and when.

        The first request to the path meets the fault.
        """
        now = self.steady()
        due = self.world.sql(
            f"SELECT id::text FROM {table} WHERE due_at <= marketplace_now() ORDER BY due_at, id"
        )
        if fault:
            self.world.stripe.fault(fault, path=path)
        self.world.sweep(sweep)
        self.world.stripe.control("DELETE", "faults")
        return [row["id"] for row in due], now

    BACKGROUND: ClassVar[tuple[str, ...]] = (
        "time",
        "expiry",
        "reviews",
        "accept",
        "pay",
        "withheld",
        "jobs",
        "poll_deposits",
        "poll_topups",
        "poll_events",
        "inbox",
        "disputes",
        "poll_accounts",
        "funds",
    )

    @precondition(lambda self: self.hours_passed < MOST_HOURS)
    @rule(hours=st.sampled_from([1, 50, 80, 80, 800]), swept=st.sampled_from([True, True, False]))
    def time_passes(self, hours: int, swept: bool) -> None:
        self.hours_passed += hours
        self.world.advance(hours * HOUR)
        self.steady()
        if swept:
            self.swept(self.BACKGROUND)

    # what must agree

    @invariant()
    def the_books_agree(self) -> None:
        found = self.world.sql(BALANCES)
        booked: dict[Account, int] = {
            (row["kind"], row["owner"]): row["minor"] for row in found if row["minor"]
        }
        expected = self.books.standing()
        wrong = {
            account: (booked.get(account, 0), expected.get(account, 0))
            for account in booked.keys() | expected.keys()
            if booked.get(account, 0) != expected.get(account, 0)
        }
        assert wrong == {}, "in the ledger, and in the model"
        for row in found:
            if row["guarded_minor"] is not None:
                assert row["guarded_minor"] == -row["minor"], row

    @invariant()
    def wallets_are_told_right(self) -> None:
        for client in self.cast.clients:
            told = client.get("/v1/wallet")
            assert told["balance_minor"] == self.books.owed(("client_wallet", client.id))
            assert told["reserved_minor"] == self.reserved_for(client)

    def reserved_for(self, client: Client) -> int:
        raise NotImplementedError

    @invariant()
    def stripe_agrees(self) -> None:
        now = self.world.now
        self.happened_at_stripe(now)
        told = self.world.stripe.control("GET", "state")["balances"]
        found = {
            account: (amounts["usd"]["available_minor"], amounts["usd"]["pending_minor"])
            for account, amounts in told.items()
        }
        assert found == self.stripe.balances(now)

    def come_to_rest(self) -> None:
        """The end of every sequence: all that is under way ends, and every invariant holds."""
        self.rest()
        self.look_once_more()
        self.agree()
        self.invariants_hold()

    def agree(self) -> None:
        self.the_books_agree()
        self.wallets_are_told_right()
        self.stripe_agrees()

    def rest(self) -> None:
        for _ in range(2):
            self.world.advance(10 * DAY)
            self.swept(self.BACKGROUND)

    def look_once_more(self) -> None:
        """Every sweep comes by at one moment, so that nothing is late then."""
        self.swept(self.BACKGROUND)

    def invariants_hold(self) -> None:
        # Imported here: all else in this package is the model, and knows nothing of the product.
        from marketplace.reports import verify

        parts = self.world.parts
        work = verify.verify(parts.sessions, parts.gateway, parts.storage)
        found = self.world.loopback.run(work)
        wrong = {name: finding.violations for name, finding in found.items() if not finding.holds}
        # Nobody drafts the runs of the schedule here, which is no matter of books.
        for name in ("pay-by", "I10"):
            wrong.pop(name, None)
        is_covered = self.stripe.total() >= self.books.all_owed()
        assert ("coverage" in wrong) is not is_covered
        wrong.pop("coverage", None)
        assert wrong == {}
