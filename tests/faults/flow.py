"""What a flow of the campaign is: a plain story, and what must be so in the end.

`begin` plays its beginning, once for each seed, which varies amounts and numbers; `play` goes through
the failing process; `mend` is what people do about what is left to people; `ended` says what must be
so however it went. All but `play` happens once the fault is over.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from marketplace.scheduler import SWEEPS
from tests.world import STRIPE_KEY, Caller, Json, World

# What brings in all that happened at Stripe, and sends what is due.
MONEY = (
    *("poll_events", "inbox", "poll_deposits", "poll_topups", "funds"),
    *("payouts", "reversals", "refunds", "withdrawals", "disputes"),
)
# What goes on by itself with the work.
WORK = ("time", "expiry", "reviews", "accept", "withdrawn", "pay", "withheld", "jobs")
ELSEWHERE = {"leftovers", "unused", "expired_keys", "sign_in_failures", "seal", "verify"}
EVERYTHING = tuple(name for name in SWEEPS if name not in ELSEWHERE)


def nothing(_world: World, _cast: Any) -> None:
    """There is nothing for people to do."""


@dataclass(frozen=True)
class Rival:
    """Somebody else, who acts while the process stands still; who waits for it waits so long."""

    act: Callable[[Any, Any], None]
    longest_seconds: float = 2


@dataclass(frozen=True)
class Flow:
    begin: Callable[[World, random.Random], Any]
    play: Callable[[World, Any], None]
    ended: Callable[[World, Any], None]
    mend: Callable[[World, Any], None] = nothing
    # Stripe tells the process of its events.
    listens: bool = False
    # What runs until all is quiet.
    sweeps: tuple[str, ...] = MONEY
    # Which of them it is, the seed says.
    rivals: tuple[Rival, ...] = ()
    # It ends just as well if nobody looks at it for a day.
    may_wait: bool = False


def earned_minor(seconds: int, rate_minor_per_hour: int) -> int:
    """Half up, once: said once more here, so that nothing of the product's judges itself."""
    whole, rest = divmod(seconds * rate_minor_per_hour, 3_600)
    return whole + (rest >= 1_800)


FEE_BASIS_POINTS = 1_500
RATE = 7_400
# 600 s of preparation, 2,400 s, and these once more for a retake.
LONGEST_SECONDS = 5_400


def costs_minor(seconds: int) -> int:
    pay_minor = earned_minor(seconds, RATE)
    whole, rest = divmod(pay_minor * FEE_BASIS_POINTS, 10_000)
    return pay_minor + whole + (rest >= 5_000)


def post_unless_forestalled(somebody: Caller, path: str, body: Any = None) -> None:
    """Who was quicker at another screen has decided it: that is told as a 409, and as good."""
    answer = somebody.ask("POST", path, body)
    assert answer.is_success or answer.status_code == 409, answer.text


def at_stripe(world: World, what: str) -> list[Json]:
    answer = world.stripe.http.get(
        f"{world.stripe.url}/v1/{what}?limit=100",
        headers={"Authorization": f"Bearer {STRIPE_KEY}"},
    )
    found: list[Json] = answer.json()["data"]
    return found
