"""Two ledgers that nobody shares code with: ours by the book, and Stripe's own balances."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction

PLATFORM = "platform"

# A kind of account, and whose it is: a client, a performer, or what a reserve is for.
Account = tuple[str, str]

PENDING: Account = ("stripe_pending", "")
AVAILABLE: Account = ("stripe_available", "")
STRIPE_FEES: Account = ("stripe_fees", "")
CAPITAL: Account = ("platform_capital", "")
EXPENSE: Account = ("platform_expense", "")
FEES: Account = ("platform_fees", "")
IN_FLIGHT: Account = ("transfers_in_flight", "")
REFUNDS: Account = ("refunds_in_flight", "")
TO_THE_BANK: Account = ("bank_in_transit", "")


def wallet(client_id: str) -> Account:
    return ("client_wallet", client_id)


def reserve(role_or_claim_id: str) -> Account:
    return ("job_reserve", role_or_claim_id)


def payable(performer_id: str) -> Account:
    return ("performer_payable", performer_id)


def receivable(performer_id: str) -> Account:
    return ("performer_receivable", performer_id)


# What must be covered by cash at all times.
OWED = frozenset(
    {
        "client_wallet",
        "job_reserve",
        "performer_payable",
        "transfers_in_flight",
        "refunds_in_flight",
        "bank_in_transit",
    }
)


def half_up(exact: Fraction) -> int:
    return math.floor(exact + Fraction(1, 2))


def pay_of(seconds: int, rate_minor_per_hour: int) -> int:
    """Rounded once, for a whole claim."""
    return half_up(Fraction(seconds * rate_minor_per_hour, 3_600))


def fee_on(pay_minor: int, basis_points: int) -> int:
    return half_up(Fraction(pay_minor * basis_points, 10_000))


def cost_of(seconds: int, rate_minor_per_hour: int, basis_points: int) -> int:
    pay = pay_of(seconds, rate_minor_per_hour)
    return pay + fee_on(pay, basis_points)


def card_fee_on(amount_minor: int) -> int:
    """2.9 % and 0.30."""
    return half_up(Fraction(amount_minor * 29, 1_000)) + 30


class Books:
    """Balances by account, debits positive."""

    def __init__(self) -> None:
        self._balances: dict[Account, int] = defaultdict(int)

    def book(self, amount_minor: int, debit: Account, credit: Account) -> None:
        assert amount_minor >= 0, "a movement is never negative"
        self._balances[debit] += amount_minor
        self._balances[credit] -= amount_minor

    def owed(self, account: Account) -> int:
        """The balance of a liability."""
        return -self._balances[account]

    def held(self, account: Account) -> int:
        """The balance of an asset or a cost."""
        return self._balances[account]

    def standing(self) -> dict[Account, int]:
        """Every account that is not at zero."""
        return {account: minor for account, minor in self._balances.items() if minor}

    def all_owed(self) -> int:
        """A debt that is paid before it is found is somebody's, too."""
        return sum(
            -minor
            for (kind, _), minor in self._balances.items()
            if kind in OWED or (kind == "performer_receivable" and minor < 0)
        )

    def set_aside(self) -> int:
        """Of wallets, until disputes are decided: no cash, for Stripe has taken that already."""
        return sum(
            -minor for (kind, _), minor in self._balances.items() if kind == "wallet_disputed"
        )


@dataclass(frozen=True)
class Line:
    net_minor: int
    available_on: datetime


@dataclass
class StripeSide:
    """What Stripe must hold for the platform and for each connected account."""

    lines: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))

    def add(self, account: str, net_minor: int, available_on: datetime) -> None:
        self.lines[account].append(Line(net_minor, available_on))

    def balances(self, now: datetime) -> dict[str, tuple[int, int]]:
        """Available and pending, of every account that ever moved anything."""
        return {
            account: (
                sum(line.net_minor for line in lines if line.available_on <= now),
                sum(line.net_minor for line in lines if line.available_on > now),
            )
            for account, lines in self.lines.items()
        }

    def available(self, now: datetime, account: str = PLATFORM) -> int:
        return self.balances(now).get(account, (0, 0))[0]

    def total(self) -> int:
        return sum(line.net_minor for line in self.lines[PLATFORM])
