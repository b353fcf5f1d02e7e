"""Many performers, few roles, two real server processes: nobody gets what somebody else has."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from marketplace.accounts import tokens
from marketplace.shared.ids import new_id
from tests.processes import served
from tests.reports.conftest import violations
from tests.world import Json, Person, World

PERFORMERS = 200
ROLES = 10


@pytest.fixture
def servers(world: World, tmp_path: Path) -> Iterator[list[str]]:
    with served(world, tmp_path / "one") as one, served(world, tmp_path / "two") as two:
        yield [one, two]


def crowd(world: World, size: int) -> dict[str, UUID]:
    """Vetted performers, by token."""
    made = {tokens.new_secret(tokens.DEVICE): new_id() for _ in range(size)}
    ids = list(made.values())
    hashes = [tokens.hash_of(secret) for secret in made]
    world.sql(
        "INSERT INTO person (id, email, name, password_hash)"
        " SELECT id, id || '@example.test', 'One of many', 'none' FROM unnest(%s::uuid[]) AS id",
        ids,
    )
    world.sql("INSERT INTO person_role SELECT id, 'performer' FROM unnest(%s::uuid[]) AS id", ids)
    world.sql(
        "INSERT INTO access_token (id, token_hash, person_id, name, scopes, expires_at)"
        " SELECT uuidv7(), hash, id, 'phone', '{}', marketplace_now() + interval '1 day'"
        " FROM unnest(%s::text[], %s::uuid[]) AS given (hash, id)",
        hashes,
        ids,
    )
    world.sql(
        "INSERT INTO performer (person_id, state, languages, accents, skills, time_zone,"
        " work_country, claims_limit, live_claims, version)"
        " SELECT id, 'applied', '{en-US}', '{}', '{improv}', 'UTC', 'US', 3, 0, 1"
        " FROM unnest(%s::uuid[]) AS id",
        ids,
    )
    for state in ("auditioning", "vetted"):
        world.sql("UPDATE performer SET state = %s WHERE person_id = ANY (%s)", state, ids)
    return made


Ask = tuple[str, str, str, str]


def ask_all(asks: list[Ask]) -> list[httpx.Response]:
    """All at once: (server, token, role, key)."""

    async def ask(
        http: httpx.AsyncClient, server: str, token: str, role: str, key: str
    ) -> httpx.Response:
        return await http.post(
            f"{server}/v1/claims",
            json={"role_id": role},
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
        )

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=len(asks))
        async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as http:
            return await asyncio.gather(*(ask(http, *each) for each in asks))

    return asyncio.run(run())


def test_two_hundred_race_for_ten_roles(world: World, finn: Person, servers: list[str]) -> None:
    world.capital(finn, 50_000)
    acme = world.client(deposit_minor=1_000_000)
    roles = world.roles(world.published_job(acme, tasks=ROLES))
    performers = crowd(world, PERFORMERS)
    asks = [
        (servers[number % 2], token, roles[number % ROLES], "first")
        for number, token in enumerate(performers)
    ]
    answers = ask_all(asks)
    assert Counter(answer.status_code for answer in answers) == {
        201: ROLES,
        409: PERFORMERS - ROLES,
    }
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {
        "role_taken"
    }
    assert world.value("SELECT count(*) FROM claim") == ROLES
    assert world.value("SELECT count(DISTINCT role_id) FROM claim") == ROLES
    assert world.value("SELECT sum(live_claims) FROM performer") == ROLES
    assert world.value("SELECT count(*) FROM consent_grant") == ROLES
    assert world.value("SELECT count(*) FROM role WHERE state = 'held'") == ROLES
    won = {
        token: answer.json()
        for (_, token, _, _), answer in zip(asks, answers, strict=True)
        if answer.is_success
    }
    for token, claim in won.items():
        each_winner_has_what_was_promised(world, performers[token], claim)
    repeated = ask_all([each for each in asks if each[1] in won])
    assert all(answer.headers["idempotent-replayed"] == "true" for answer in repeated)
    assert {answer.json()["id"] for answer in repeated} == {claim["id"] for claim in won.values()}
    assert violations(world) == {}


def each_winner_has_what_was_promised(world: World, performer: UUID, claim: Json) -> None:
    """One claim of their own, at the rate in force, with their own consent, and counted once."""
    (row,) = world.sql(
        "SELECT claim.id, claim.rate_minor_per_hour, rate.number, live_claims,"
        " consent.performer_id = claim.performer_id AS is_theirs, licence_version"
        " FROM claim JOIN rate ON rate.id = rate_id"
        " JOIN consent_grant AS consent ON consent.id = consent_grant_id"
        " JOIN performer ON person_id = claim.performer_id WHERE claim.performer_id = %s",
        performer,
    )
    assert row == {
        "id": UUID(claim["id"]),
        "rate_minor_per_hour": 7_400,
        "number": 1,
        "live_claims": 1,
        "is_theirs": True,
        "licence_version": "acme-1",
    }
    assert claim["rate_minor_per_hour"] == 7_400


def test_everybody_storms_everything(world: World, finn: Person, servers: list[str]) -> None:
    """Two dozen people ask for all ten roles at once: each role goes to one, nobody passes a limit."""
    world.capital(finn, 50_000)
    acme = world.client(deposit_minor=1_000_000)
    roles = world.roles(world.published_job(acme, tasks=ROLES))
    asks = [
        (servers[(turn + number) % 2], token, role, f"storm-{role}")
        for number, token in enumerate(crowd(world, 24))
        for turn, role in enumerate(roles[number % ROLES :] + roles[: number % ROLES])
    ]
    codes = Counter(answer.status_code for answer in ask_all(asks))
    assert codes == {201: ROLES, 409: len(asks) - ROLES}
    assert world.value("SELECT count(DISTINCT role_id) FROM claim") == ROLES
    assert world.value("SELECT max(live_claims) FROM performer") <= 3
    assert violations(world) == {}


def test_repeats_of_a_key_in_flight_get_one_answer(world: World, servers: list[str]) -> None:
    acme = world.client(deposit_minor=1_000_000)
    roles = world.roles(world.published_job(acme, tasks=8))
    performers = list(crowd(world, 8))
    asks = [
        (servers[turn % 2], token, role, "same")
        for token, role in zip(performers, roles, strict=True)
        for turn in range(10)
    ]
    answers = ask_all(asks)
    assert {answer.status_code for answer in answers} == {201}
    for token in performers:
        mine = {answer.text for each, answer in zip(asks, answers, strict=True) if each[1] == token}
        assert len(mine) == 1
    assert world.value("SELECT count(*) FROM claim") == 8


def test_the_limit_holds_for_a_hundred_tries_at_once(world: World, servers: list[str]) -> None:
    acme = world.client(deposit_minor=2_000_000)
    roles = world.roles(world.published_job(acme, tasks=100))
    (token,) = crowd(world, 1)
    answers = ask_all(
        [(servers[turn % 2], token, role, f"try-{turn}") for turn, role in enumerate(roles)]
    )
    codes = Counter(answer.status_code for answer in answers)
    assert codes == {201: 3, 409: 97}
    assert world.value("SELECT live_claims FROM performer") == 3
    assert world.value("SELECT count(*) FROM role WHERE state = 'held'") == 3
