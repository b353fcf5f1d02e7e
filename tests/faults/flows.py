"""The flows that the campaign breaks: each is a plain story, and what must be so in the end.

`begin` plays its beginning, once for each seed, which varies amounts and numbers; `play` goes through
the failing process; `mend` is what people do about what is left to people; `ended` says what must be
so however it went. All but `play` happens outside of the fault zone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.world import Client, Person, World

# What brings in all that happened at Stripe, and sends what is due.
MONEY = ("poll_events", "inbox", "poll_deposits", "poll_topups", "funds", "payouts")
# What goes on by itself with the work.
WORK = ("time", "expiry", "reviews", "accept", "withdrawn", "pay", "withheld", "jobs")


def nothing(_world: World, _cast: Any) -> None:
    """There is nothing for people to do."""


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


def earned_minor(seconds: int, rate_minor_per_hour: int) -> int:
    """Half up, once: said once more here, so that nothing of the product's judges itself."""
    whole, rest = divmod(seconds * rate_minor_per_hour, 3_600)
    return whole + (rest >= 1_800)


@dataclass(frozen=True)
class Payday:
    ana: Person
    finn: Person
    fay: Person
    amount_minor: int


def payday(world: World, chance: random.Random) -> Payday:
    """Ana is owed for a minute or more; nobody has drafted a run yet."""
    acme: Client = world.client(deposit_minor=100_000)
    finn, fay, ravi = world.finance("Finn"), world.finance("Fay"), world.reviewer()
    world.capital(finn, 500_000)
    ana = world.performer("Ana", onboarded=True)
    seconds = chance.randrange(60, 180)
    world.accepted_claim(ana, world.published_job(acme), ravi, seconds=seconds)
    world.sweep("poll_events", "inbox")
    return Payday(ana, finn, fay, earned_minor(seconds, 7_400))


def pay(world: World, cast: Payday) -> None:
    run = cast.finn.post("/v1/payout-runs", {"currency": "USD"})
    cast.fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")


def approve_again(world: World, cast: Payday) -> None:
    """Stripe's restriction is lifted, and finance tries once more what was held or refused."""
    for payout in world.sql("SELECT * FROM payout WHERE state IN ('held', 'refused')"):
        world.stripe.lift(payout["destination"])
        cast.fay.post(f"/v1/payouts/{payout['id']}/approve", {"reason": "It was looked at."})


def paid(world: World, cast: Payday) -> None:
    (payout,) = world.sql("SELECT * FROM payout")
    assert payout["state"] == "paid", payout["state_reason"]
    (transfer,) = world.stripe.transfers()
    assert transfer["id"] == payout["transfer_id"]
    moved = transfer["amount"], transfer["destination"]
    assert moved == (cast.amount_minor, payout["destination"])
    assert world.ledger("performer_payable", cast.ana.id) == 0
    assert world.ledger("transfers_in_flight") == 0


FLOWS: dict[str, Flow] = {
    "payout": Flow(payday, pay, paid, approve_again),
}
