"""Making a claim, giving it back, and what happens when its deadline passes."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.world import DAY, HOUR, Client, Json, Person, World, new_job


def at(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def test_a_claim_locks_role_rate_and_deadline(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    assert claim["state"] == "active"
    assert claim["rate_id"] == job["rate"]["id"]
    assert at(claim["deadline"]) - at(claim["claimed_at"]) == timedelta(days=1)
    assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"held": 1}
    assert ana.get(f"/v1/claims/{claim['id']}") == claim
    assert ana.get("/v1/claims")["items"] == [claim]


def test_a_claim_signs_the_licence_as_shown(world: World, acme: Client, ana: Person) -> None:
    claim = world.claim(ana, world.published_job(acme))
    (consent,) = ana.get("/v1/consents")["items"]
    assert consent["id"] == claim["consent_grant_id"]
    assert consent["licence_version"] == "acme-1"
    assert consent["allowed_uses"] == ["evaluation"]
    assert "voice_clone" in consent["forbidden_uses"]
    assert consent["consideration"] == "7400 USD minor units per hour of work"


@pytest.mark.parametrize("window", [HOUR, DAY, 13 * DAY])
@pytest.mark.parametrize("review", [HOUR, 3 * DAY])
def test_the_pay_by_date_follows_its_formula(
    world: World, acme: Client, ana: Person, window: int, review: int
) -> None:
    """Deadline, all the time allowed, the review, the next Monday 06:00 UTC, two days.

    However short the review: an expired claim is decided after three days.
    """
    job = world.published_job(acme, claim_window_seconds=window, review_seconds=review)
    claim = world.claim(ana, job)
    decided = at(claim["claimed_at"]) + timedelta(
        seconds=window + 3_000 + max(review, 3 * DAY) + 300
    )
    monday = (decided - timedelta(days=decided.weekday())).replace(hour=6, minute=0, second=0)
    next_run = monday if decided < monday else monday + timedelta(days=7)
    assert at(claim["pay_by"]) == next_run + timedelta(days=2)
    assert next_run.tzinfo == UTC


def test_a_term_counts_its_months_in_utc(world: World) -> None:
    database = world.value("SELECT current_database()")
    world.owner_sql(f"ALTER DATABASE {database} SET timezone = 'America/New_York'")
    world.loopback.run(world.parts.sessions.kw["bind"].dispose())
    # Summer time begins in between: a month of New York has an hour less.
    world.advance_to(datetime(world.now.year + 1, 3, 1, 12, tzinfo=UTC))
    wanted = new_job()
    wanted["specification"]["licence"]["term_months"] = 1
    acme = world.client(deposit_minor=100_000)
    job = acme.post("/v1/jobs", wanted)
    acme.post(f"/v1/jobs/{job['id']}/publish", {})
    ana = world.performer()
    world.claim(ana, job)
    (consent,) = ana.get("/v1/consents")["items"]
    assert at(consent["term_ends_at"]) - at(consent["signed_at"]) == timedelta(days=31)


def test_second_performer_gets_409(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    second = world.performer("another performer")
    refused = second.refused("POST", "/v1/claims", {"role_id": claim["role_id"]})
    assert refused == "409 role_taken"


def test_the_limit_counts_what_is_in_hand(
    world: World, acme: Client, ana: Person, ravi: Person
) -> None:
    job = world.published_job(acme, tasks=5)
    claims = [world.claim(ana, job) for _ in range(3)]
    fourth = {"role_id": ana.get("/v1/board")["items"][0]["role_id"]}
    assert ana.refused("POST", "/v1/claims", fourth) == "409 claim_limit_reached"
    world.work(ana, claims[0], "perform", 60)
    world.hand_in(ana, claims[0], world.take(ana, claims[0]))
    assert ana.post("/v1/claims", fourth)["state"] == "active"
    assert ana.get("/v1/performer")["live_claims"] == 3


def test_a_retake_counts_again_even_over_the_limit(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=4)
    world.submitted_claim(ana, job, found="retake")
    for _ in range(2):
        world.claim(ana, job)
    assert ana.get("/v1/performer")["live_claims"] == 3


def test_a_task_gives_one_chance(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    ana.post(f"/v1/claims/{claim['id']}/release", {"reason": "not my kind of scene"})
    assert ana.get("/v1/board")["items"] == []
    refused = ana.refused("POST", "/v1/claims", {"role_id": claim["role_id"]})
    assert refused == "409 task_claimed_before"
    second = world.performer("another performer")
    assert second.post("/v1/claims", {"role_id": claim["role_id"]})["state"] == "active"


def test_a_role_that_is_not_funded_is_404(world: World, acme: Client, ana: Person) -> None:
    job = world.job(acme)
    refused = ana.refused("POST", "/v1/claims", {"role_id": world.roles(job)[0]})
    assert refused == "404 not_found"


def test_anothers_claim_is_404(world: World, acme: Client, ana: Person) -> None:
    claim = world.claim(ana, world.published_job(acme))
    stranger = world.performer("another performer")
    path = f"/v1/claims/{claim['id']}"
    for method, below, body in (
        ("GET", "", None),
        ("GET", "/time", None),
        ("GET", "/pay", None),
        ("GET", "/recordings", None),
        ("GET", "/submissions", None),
        ("POST", "/release", {}),
        ("POST", "/time", {"activity": "prep"}),
        ("POST", "/heartbeat", None),
        ("POST", "/time/stop", None),
        ("POST", "/recordings", {"size_bytes": 1, "sha256": "ab" * 32}),
    ):
        assert stranger.refused(method, path + below, body) == "404 not_found", below
    assert stranger.get("/v1/claims")["items"] == []


def test_released_without_time_the_role_is_free_at_once(
    world: World, acme: Client, ana: Person
) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    released = ana.post(f"/v1/claims/{claim['id']}/release", {})
    assert (released["state"], released["pay_due_at"]) == ("released", None)
    assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"open": 1}
    assert acme.wallet_minor == 100_000 - 12_765
    assert ana.refused("POST", f"/v1/claims/{claim['id']}/release", {}) == "409 move_not_allowed"


def test_released_with_time_the_time_is_paid(
    world: World, acme: Client, ana: Person, ravi: Person
) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    world.work(ana, claim, "prep", 60)
    released = ana.post(f"/v1/claims/{claim['id']}/release", {})
    assert released["pay_due_at"] is not None
    # 1.41 waits for a decision; the role is reserved up to its full worst case again.
    assert acme.wallet_minor == 100_000 - 12_765 - 141
    assert ana.refused("GET", f"/v1/claims/{claim['id']}/pay") == "404 not_found"
    world.advance(3 * DAY + 1)
    world.sweep("pay")
    assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123
    assert world.ledger("performer_payable", ana.id) == -123
    assert ravi.refused("POST", f"/v1/claims/{claim['id']}/pay") == "409 pay_already_decided"


def test_expired_without_time(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    world.advance(DAY - 60)
    world.sweep("expiry")
    assert ana.get(f"/v1/claims/{claim['id']}")["state"] == "active"
    world.advance(61)
    world.sweep("expiry")
    expired = ana.get(f"/v1/claims/{claim['id']}")
    assert (expired["state"], expired["pay_due_at"]) == ("expired", None)
    assert ana.get("/v1/performer")["live_claims"] == 0
    assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"open": 1}


def test_a_role_that_cannot_be_made_up_is_unfunded_and_said(
    world: World, acme: Client, ana: Person
) -> None:
    full = world.published_job(acme, tasks=7)  # 106.45 is left
    spent = world.published_job(
        acme, tasks=1, prep_seconds_cap=0, perform_seconds_cap=4_500, retakes_max=0, title="all"
    )
    assert acme.wallet_minor == 7
    claim = world.claim(ana, spent)
    world.work(ana, claim, "perform", 60)
    ana.post(f"/v1/claims/{claim['id']}/release", {})
    (role,) = acme.get(f"/v1/jobs/{spent['id']}/roles")["items"]
    assert role["state"] == "unfunded"
    assert "deposit" in role["state_reason"]
    # All of it but what Ana's minute costs is free again.
    assert acme.wallet_minor == 7 + 10_638 - 141
    assert full["roles"] == {"open": 7}
    world.deposit(acme, 1_000)
    acme.post(f"/v1/jobs/{spent['id']}/publish", {})
    second = world.performer("another performer")
    assert world.claim(second, spent)["state"] == "active"


@pytest.mark.parametrize("verb", ["pause", "close"])
def test_the_deadline_is_guaranteed(
    world: World, acme: Client, ana: Person, ravi: Person, verb: str
) -> None:
    job = world.published_job(acme, tasks=2)
    claim = world.claim(ana, job)
    acme.post(f"/v1/jobs/{job['id']}/{verb}", {})
    world.sweep("jobs", "expiry")
    world.advance(DAY - 600)
    world.sweep("expiry")
    world.work(ana, claim, "prep", 60)
    world.work(ana, claim, "perform", 60)
    world.hand_in(ana, claim, world.take(ana, claim))
    world.judge(ravi, ACCEPTED)
    assert ana.get(f"/v1/claims/{claim['id']}/pay")["seconds"] == 120


ACCEPTED: Json = {
    "verdict": "accept",
    "scores": dict.fromkeys(
        ("brief_followed", "emotion_conveyed", "naturalness", "listening", "listenability"), 4
    ),
}


def test_starting_a_session_extends_the_deadline_to_the_caps(
    world: World, acme: Client, ana: Person
) -> None:
    claim = world.claim(ana, world.published_job(acme, claim_window_seconds=600))
    world.advance(500)
    started = ana.post(f"/v1/claims/{claim['id']}/time", {"activity": "prep"})
    later = ana.get(f"/v1/claims/{claim['id']}")
    assert later["state"] == "in_session"
    assert at(later["deadline"]) == at(started["entry"]["started_at"]) + timedelta(seconds=3_000)
    assert later["pay_by"] == claim["pay_by"]


def test_a_suspended_performer_finishes_what_is_in_hand(
    world: World, acme: Client, ana: Person, operator: Person
) -> None:
    job = world.published_job(acme)
    claim = world.claim(ana, job)
    operator.post(f"/v1/performers/{ana.id}/suspend", {"reason": "being looked into"})
    world.work(ana, claim, "perform", 60)
    assert world.hand_in(ana, claim, world.take(ana, claim))["state"] == "checking"


def test_claims_are_paged(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=3)
    claims = [world.claim(ana, job)["id"] for _ in range(3)]
    pages = ana.pages("/v1/claims", limit=2)
    assert [[claim["id"] for claim in page] for page in pages] == [claims[:0:-1], claims[:1]]


def test_a_take_is_uploaded_for_ones_own_live_claim_only(
    world: World, acme: Client, ana: Person
) -> None:
    claim = world.claim(ana, world.published_job(acme))
    path = f"/v1/claims/{claim['id']}/recordings"
    declared = {"size_bytes": 4, "sha256": "ab" * 32}
    recording = ana.post(path, declared)
    assert ana.get(path)["items"] == [recording]
    ana.post(f"/v1/claims/{claim['id']}/release", {})
    assert ana.refused("POST", path, declared) == "409 move_not_allowed"
