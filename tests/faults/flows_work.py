"""Work: it is paid for in advance, had by one, and paid to the second."""

import random
from dataclasses import dataclass
from typing import Any

from tests.faults.flow import LONGEST_SECONDS, RATE, costs_minor, earned_minor
from tests.world import ACCEPT, HEARTBEAT_SECONDS, Client, Json, Person, World

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


def open_role(world: World, chance: random.Random, *, tasks: int = 1) -> Work:
    world.capital(world.finance(), 100_000)
    acme = world.client(deposit_minor=100_000)
    ana, ravi = world.performer("Ana", onboarded=True), world.reviewer("Ravi")
    job = world.published_job(acme, tasks=tasks)
    return Work(acme, ana, ravi, job, chance.randrange(1, 180))


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


def performed(world: World, chance: random.Random, *, tasks: int = 1) -> HandedIn:
    cast = open_role(world, chance, tasks=tasks)
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
    paid_to_the_second(world, cast)
    assert world.value("SELECT string_agg(state, ' ') FROM role") == "done"


def paid_to_the_second(world: World, cast: HandedIn) -> None:
    pay_minor = earned_minor(cast.seconds, RATE)
    (decision,) = world.sql("SELECT * FROM pay_decision")
    assert (decision["seconds"], decision["pay_minor"]) == (cast.seconds, pay_minor)
    assert world.value("SELECT string_agg(state, ' ') FROM claim") == "settled"
    assert world.ledger("performer_payable", cast.ana.id) == -pay_minor
    assert cast.acme.wallet_minor == 100_000 - costs_minor(cast.seconds)


# A job is closed with money left: what is begun is paid, what is not goes back to the wallet.


def full_job(world: World, chance: random.Random) -> HandedIn:
    return performed(world, chance, tasks=chance.randrange(2, 5))


def close(world: World, cast: HandedIn) -> None:
    path = f"/v1/jobs/{cast.job['id']}"
    if cast.acme.get(path)["state"] == "open":
        cast.acme.post(f"{path}/close", {})
    decide(world, cast)
    world.sweep("jobs")


def closed(world: World, cast: HandedIn) -> None:
    paid_to_the_second(world, cast)
    assert world.value("SELECT string_agg(state, ' ') FROM job") == "closed"
    roles = cast.acme.get(f"/v1/jobs/{cast.job['id']}")["roles"]
    assert roles == {"done": 1, "withdrawn": sum(roles.values()) - 1}
    assert cast.acme.get("/v1/wallet")["reserved_minor"] == 0
