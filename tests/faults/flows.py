"""The flows that the campaign breaks: each is a plain story, and what must be so in the end.

`begin` plays its beginning, once for each seed, which varies amounts and numbers; `play` goes through
the failing process; `mend` is what people do about what is left to people; `ended` says what must be
so however it went. All but `play` happens outside of the fault zone.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from marketplace.scheduler import SWEEPS
from tests.faults.zone import until_told
from tests.payouts.killed_sender import SHORT_LEASE
from tests.world import ACCEPT, DAY, HEARTBEAT_SECONDS, HOUR, Client, Json, Person, World

# What brings in all that happened at Stripe, and sends what is due.
MONEY = ("poll_events", "inbox", "poll_deposits", "poll_topups", "funds", "payouts")
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
    longest_seconds: float = 0.5


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
PAGE = {"success_url": "https://acme.example/wallet"}


def costs_minor(seconds: int) -> int:
    pay_minor = earned_minor(seconds, RATE)
    whole, rest = divmod(pay_minor * FEE_BASIS_POINTS, 10_000)
    return pay_minor + whole + (rest >= 5_000)


# A deposit: asked for, paid on Stripe's page, found by the poller, let out of pending.


@dataclass(frozen=True)
class Depositor:
    acme: Client
    amount_minor: int


def empty_wallet(world: World, chance: random.Random) -> Depositor:
    # More than the fee, so that the platform is solvent.
    world.capital(world.finance(), 100_000)
    return Depositor(world.client(), chance.randrange(1_000, 1_000_000))


def deposit(world: World, cast: Depositor) -> None:
    world.paid_at_stripe(cast.acme, cast.amount_minor)
    world.advance(60)
    world.sweep("poll_deposits")
    world.advance(3 * DAY)
    world.sweep("funds")


def deposited(world: World, cast: Depositor) -> None:
    credited(world, cast)
    assert world.ledger("stripe_pending") == 0
    assert_all_is_handled(world)


def assert_all_is_handled(world: World) -> None:
    assert world.value("SELECT count(*) FROM stripe_event WHERE handled_at IS NULL") == 0


def credited(world: World, cast: Depositor) -> None:
    """Once, even if it was asked for once more because the first page never opened."""
    assert world.value("SELECT count(*) FROM deposit WHERE fee_minor IS NOT NULL") == 1
    assert cast.acme.wallet_minor == cast.amount_minor
    ours = world.ledger("stripe_pending") + world.ledger("stripe_available")
    assert ours == world.stripe.platform_minor


# The same, told by Stripe's events alone: no poller looks at the deposit.


def waiting_page(world: World, chance: random.Random) -> tuple[Depositor, str]:
    cast = empty_wallet(world, chance)
    world.sweep("poll_events", "inbox")
    asked = {"amount_minor": cast.amount_minor, **PAGE}
    return cast, cast.acme.post("/v1/wallet/deposits", asked)["checkout_url"]


def be_told(world: World, cast: tuple[Depositor, str]) -> None:
    world.stripe.complete(cast[1], "card")
    until_told(world)
    world.sweep("inbox")


def was_told(world: World, cast: tuple[Depositor, str]) -> None:
    credited(world, cast[0])
    assert_all_is_handled(world)
    paid = "SELECT count(*) FROM stripe_event WHERE type = 'checkout.session.completed'"
    assert world.value(paid) == 1


# The platform's own money.


def finance_alone(world: World, chance: random.Random) -> tuple[Person, int]:
    return world.finance("Finn"), chance.randrange(100, 1_000_000)


def top_up(world: World, cast: tuple[Person, int]) -> None:
    finn, amount_minor = cast
    finn.post("/v1/topups", {"amount_minor": amount_minor, "currency": "USD"})
    world.advance(60)
    world.sweep("poll_topups")


def topped_up(world: World, cast: tuple[Person, int]) -> None:
    assert world.value("SELECT string_agg(state, ' ') FROM topup") == "succeeded"
    assert world.ledger("stripe_available") == world.stripe.platform_minor == cast[1]


# A job is drafted and published: the worst case of every role is set aside.


@dataclass(frozen=True)
class Publisher:
    acme: Client
    tasks: int


def full_wallet(world: World, chance: random.Random) -> Publisher:
    world.capital(world.finance(), 100_000)
    return Publisher(world.client(deposit_minor=100_000), chance.randrange(1, 6))


def publish(world: World, cast: Publisher) -> None:
    world.published_job(cast.acme, tasks=cast.tasks)


def published(world: World, cast: Publisher) -> None:
    assert world.value("SELECT string_agg(state, ' ') FROM job") == "open"
    assert world.value("SELECT count(*) FROM role WHERE state = 'open'") == cast.tasks
    reserved = cast.tasks * costs_minor(LONGEST_SECONDS)
    assert cast.acme.wallet_minor == 100_000 - reserved
    assert cast.acme.get("/v1/wallet")["reserved_minor"] == reserved


# A role is claimed, worked in, handed in, reviewed, and its pay is decided.


@dataclass(frozen=True)
class Work:
    acme: Client
    ana: Person
    ravi: Person
    job: Json
    seconds: int


def open_role(world: World, chance: random.Random) -> Work:
    world.capital(world.finance(), 100_000)
    acme = world.client(deposit_minor=100_000)
    ana, ravi = world.performer("Ana", onboarded=True), world.reviewer("Ravi")
    return Work(acme, ana, ravi, world.published_job(acme), chance.randrange(1, 180))


def claim(world: World, cast: Work) -> None:
    made = world.claim(cast.ana, cast.job)
    world.work(cast.ana, made, "perform", cast.seconds)


def claimed(world: World, cast: Work) -> None:
    (made,) = world.sql("SELECT * FROM claim")
    assert (made["state"], made["rate_minor_per_hour"]) == ("in_session", RATE)
    (role,) = world.sql("SELECT * FROM role")
    assert (role["state"], role["id"]) == ("held", made["role_id"])
    assert world.value("SELECT live_claims FROM performer") == 1
    assert world.value("SELECT count(*) FROM consent_grant") == 1
    # Asking again takes time, which is paid.
    (entry,) = world.sql("SELECT * FROM time_entry")
    worked = (entry["ended_at"] - entry["started_at"]).total_seconds()
    assert cast.seconds <= worked <= cast.seconds + HEARTBEAT_SECONDS


# Two want the same role; whoever is quicker has it.


@dataclass(frozen=True)
class Race:
    ana: Person
    bea: Person
    job: Json
    role_id: str


def one_role(world: World, chance: random.Random) -> Race:
    cast = open_role(world, chance)
    (role_id,) = world.roles(cast.job)
    return Race(cast.ana, world.performer("Bea"), cast.job, role_id)


def claim_first(world: World, cast: Race) -> None:
    answer = cast.ana.ask("POST", "/v1/claims", {"role_id": cast.role_id})
    assert answer.status_code in {201, 409}, answer.text


def claim_too(world: Any, cast: Race) -> None:
    answer = cast.bea.ask("POST", "/v1/claims", {"role_id": cast.role_id})
    assert answer.status_code in {201, 409, 503}, answer.text


def one_has_it(world: World, cast: Race) -> None:
    (made,) = world.sql("SELECT * FROM claim")
    assert made["state"] == "active"
    held = "SELECT person_id FROM performer WHERE live_claims = 1"
    assert world.value(held) == made["performer_id"]
    assert world.value("SELECT count(*) FROM consent_grant") == 1


@dataclass(frozen=True)
class HandedIn(Work):
    claim: Json
    take: str


def performed(world: World, chance: random.Random) -> HandedIn:
    cast = open_role(world, chance)
    made = world.claim(cast.ana, cast.job)
    world.work(cast.ana, made, "prep", cast.seconds - cast.seconds // 2)
    if cast.seconds > 1:
        world.work(cast.ana, made, "perform", cast.seconds // 2)
    take = world.take(cast.ana, made)
    return HandedIn(cast.acme, cast.ana, cast.ravi, cast.job, cast.seconds, made, take)


def decide(world: World, cast: HandedIn) -> None:
    world.hand_in(cast.ana, cast.claim, cast.take)
    world.sweep("reviews")
    world.judge(cast.ravi, ACCEPT)


def decided(world: World, cast: HandedIn) -> None:
    pay_minor = earned_minor(cast.seconds, RATE)
    (decision,) = world.sql("SELECT * FROM pay_decision")
    assert (decision["seconds"], decision["pay_minor"]) == (cast.seconds, pay_minor)
    assert world.value("SELECT string_agg(state, ' ') FROM claim") == "settled"
    assert world.value("SELECT string_agg(state, ' ') FROM role") == "done"
    assert world.ledger("performer_payable", cast.ana.id) == -pay_minor
    assert cast.acme.wallet_minor == 100_000 - costs_minor(cast.seconds)


# A payout: drafted, approved by a second person, sent.


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
    return Payday(ana, finn, fay, earned_minor(seconds, RATE))


def pay(world: World, cast: Payday) -> None:
    run = cast.finn.post("/v1/payout-runs", {"currency": "USD"})
    cast.fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")


def approve_again(world: World, cast: Payday) -> None:
    """Stripe's restriction is lifted, and finance tries once more what was held or refused."""
    for payout in world.sql("SELECT * FROM payout WHERE state IN ('held', 'refused')"):
        world.stripe.lift(payout["destination"])
        cast.fay.post(f"/v1/payouts/{payout['id']}/approve", {"reason": "It was looked at."})


def release(world: Any, cast: Payday) -> None:
    """Finance gives the payout up, if it still can."""
    for payout in world.sql("SELECT id FROM payout"):
        answer = cast.finn.ask("POST", f"/v1/payouts/{payout['id']}/release", {"reason": "No."})
        assert answer.status_code in {200, 409}, answer.text


def send_too(world: Any, _cast: Payday) -> None:
    """Another sender, which takes this one for dead."""
    world.advance(61)
    world.sweep("payouts")


def send_for_it_a_day_later(world: Any, cast: Payday) -> None:
    """By now Stripe has forgotten the key; finance lets it be sent with a new one."""
    # By the clock of the one that stands still its lease is over, too: see the launcher.
    time.sleep(SHORT_LEASE.total_seconds() + 0.1)
    world.advance(25 * HOUR)
    world.sweep("payouts")
    for payout in world.sql("SELECT id FROM payout WHERE state = 'unknown'"):
        for verb in ("absent", "approve"):
            cast.fay.ask("POST", f"/v1/payouts/{payout['id']}/{verb}", {"reason": "It is gone."})
    world.sweep("payouts")


def paid(world: World, cast: Payday) -> None:
    (payout,) = world.sql("SELECT * FROM payout")
    assert world.value("SELECT count(*) FROM payout_run") == 1
    if payout["state"] == "released":
        assert world.stripe.transfers() == []
        assert world.ledger("performer_payable", cast.ana.id) == -cast.amount_minor
        return
    assert payout["state"] == "paid", payout["state_reason"]
    (transfer,) = world.stripe.transfers()
    assert transfer["id"] == payout["transfer_id"]
    moved = transfer["amount"], transfer["destination"]
    assert moved == (cast.amount_minor, payout["destination"])
    assert world.ledger("performer_payable", cast.ana.id) == 0
    assert world.ledger("transfers_in_flight") == 0


FLOWS: dict[str, Flow] = {
    "deposit": Flow(empty_wallet, deposit, deposited, may_wait=True),
    "webhook": Flow(
        waiting_page,
        be_told,
        was_told,
        listens=True,
        sweeps=("poll_events", "inbox"),
        may_wait=True,
    ),
    "topup": Flow(finance_alone, top_up, topped_up, may_wait=True),
    "publish": Flow(full_wallet, publish, published),
    "claim": Flow(open_role, claim, claimed),
    "race": Flow(one_role, claim_first, one_has_it, rivals=(Rival(claim_too),)),
    "decision": Flow(performed, decide, decided, sweeps=WORK),
    "payout": Flow(
        payday,
        pay,
        paid,
        approve_again,
        rivals=(Rival(release), Rival(send_too), Rival(send_for_it_a_day_later, 8)),
        may_wait=True,
    ),
}
