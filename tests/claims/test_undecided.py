"""What waits for somebody's word on its pay is found over HTTP, by whoever may give it."""

import base64

import pytest

from tests.world import DAY, HOUR, Client, Json, Person, World

PROPOSAL = {"ground": "no_work", "reason": "an hour of silence, twice"}
BOTH = ("/v1/claims/undecided", "/v1/withholdings")


def ended_claim(world: World, performer: Person, job: Json, seconds: int = 60) -> Json:
    claim = world.claim(performer, job)
    world.work(performer, claim, "prep", seconds)
    released: Json = performer.post(f"/v1/claims/{claim['id']}/release", {"reason": "not for me"})
    return released


@pytest.fixture
def job(world: World, acme: Client) -> Json:
    return world.published_job(acme, tasks=4)


@pytest.fixture
def ended(world: World, job: Json, ana: Person) -> Json:
    """Given back with 60 s of Ana's on it: 1.23."""
    return ended_claim(world, ana, job)


class TestClaims:
    def test_what_is_to_decide(
        self, ended: Json, ana: Person, ravi: Person, operator: Person
    ) -> None:
        found = {
            "claim_id": ended["id"],
            "performer_id": ana.id,
            "state": "released",
            "state_reason": "not for me",
            "seconds": 60,
            "pay_minor": 123,
            "currency": "USD",
            "pay_due_at": ended["pay_due_at"],
        }
        for decider in (ravi, operator):
            assert decider.get("/v1/claims/undecided")["items"] == [found]
        ravi.post(f"/v1/claims/{found['claim_id']}/pay")
        assert operator.get("/v1/claims/undecided")["items"] == []

    def test_claims_that_live_or_ended_without_time_are_not(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        world.work(ana, world.claim(ana, job), "prep", 60)
        ana.post(f"/v1/claims/{world.claim(ana, job)['id']}/release", {})
        assert ravi.get("/v1/claims/undecided")["items"] == []

    def test_those_due_first_come_first_page_by_page(
        self, world: World, job: Json, ravi: Person
    ) -> None:
        ended = []
        for name in ("Ana", "Bea", "Cleo"):
            ended.append(ended_claim(world, world.performer(name), job)["id"])
            world.advance(HOUR)
        pages = ravi.pages("/v1/claims/undecided", limit=2)
        assert [[item["claim_id"] for item in page] for page in pages] == [ended[:2], ended[2:]]
        (whole,) = ravi.pages("/v1/claims/undecided", limit=3)
        assert [item["claim_id"] for item in whole] == ended

    def test_what_is_paid_when_due_is_gone(self, world: World, ended: Json, ravi: Person) -> None:
        world.advance(3 * DAY + 1)
        world.sweep("pay")
        assert ravi.get("/v1/claims/undecided")["items"] == []


class TestWithholdings:
    def test_a_second_person_finds_what_waits_for_them(
        self, world: World, ended: Json, ana: Person, ravi: Person, operator: Person
    ) -> None:
        proposed = ravi.post(f"/v1/claims/{ended['id']}/withholdings", PROPOSAL)
        (found,) = operator.get("/v1/withholdings", state="proposed")["items"]
        created_at = found.pop("created_at")
        assert ended["claimed_at"] < created_at < found["pay_due_at"]
        at_stake = {"seconds": 60, "pay_minor": 123, "currency": "USD"}
        assert found == {**proposed, **at_stake, "pay_due_at": ended["pay_due_at"]}
        path = f"/v1/withholdings/{found['id']}/decision"
        operator.post(path, {"confirm": True, "reason": "nobody is there"})
        assert ana.get(f"/v1/claims/{ended['id']}/pay")["outcome"] == "withhold"
        assert ravi.get("/v1/withholdings", state="proposed")["items"] == []
        (confirmed,) = ravi.get("/v1/withholdings", state="confirmed")["items"]
        assert (confirmed["decided_by"], confirmed["pay_due_at"]) == (operator.id, None)

    def test_newest_first_page_by_page(self, world: World, job: Json, ravi: Person) -> None:
        proposed = []
        for name in ("Ana", "Bea", "Cleo"):
            claim = ended_claim(world, world.performer(name), job)
            made = ravi.post(f"/v1/claims/{claim['id']}/withholdings", PROPOSAL)
            proposed.append(made["id"])
        pages = ravi.pages("/v1/withholdings", limit=2)
        found = [[item["id"] for item in page] for page in pages]
        assert found == [proposed[:0:-1], proposed[:1]]


def test_nobody_is_shown_their_own(
    world: World, ended: Json, ana: Person, ravi: Person, operator: Person
) -> None:
    ravi.post(f"/v1/claims/{ended['id']}/withholdings", PROPOSAL)
    code = operator.post("/v1/invites", {"role": "reviewer"})["code"]
    ana.post("/v1/invites/accept", {"code": code})
    for path in BOTH:
        assert ana.get(path)["items"] == []
        assert len(operator.get(path)["items"]) == 1


def test_nobody_is_shown_what_their_own_client_would_pay(
    world: World, acme: Client, ended: Json, ravi: Person, operator: Person
) -> None:
    ravi.post(f"/v1/claims/{ended['id']}/withholdings", PROPOSAL)
    code = acme.member.post("/v1/client/invites", {})["code"]
    ravi.post("/v1/invites/accept", {"code": code})
    globex = world.client("Globex")
    elsewhere = globex.member.post("/v1/client/invites", {})["code"]
    operator.post("/v1/invites/accept", {"code": elsewhere})
    for path in BOTH:
        assert ravi.get(path)["items"] == []
        assert len(operator.get(path)["items"]) == 1


@pytest.mark.parametrize("path", BOTH)
def test_who_may_not_look(world: World, acme: Client, ana: Person, finn: Person, path: str) -> None:
    assert world.anybody.refused("GET", path) == "401 unauthorized"
    for caller in (ana, finn, acme, acme.member):
        assert caller.refused("GET", path) == "403 forbidden"


def test_malformed_questions_are_422(ravi: Person) -> None:
    second = b'["2026-01-31T00:00:00+00:00:00.000001","00000000-0000-0000-0000-000000000001"]'
    odd = base64.urlsafe_b64encode(second).decode().rstrip("=")
    assert ravi.get("/v1/claims/undecided", cursor=odd)["items"] == []
    first = b'["0001-01-01T00:00:00+23:00","00000000-0000-0000-0000-000000000001"]'
    early = base64.urlsafe_b64encode(first).decode().rstrip("=")
    for path, query in (
        ("/v1/claims/undecided", {"cursor": early}),
        ("/v1/claims/undecided", {"cursor": "nonsense"}),
        ("/v1/claims/undecided", {"state": "released"}),
        ("/v1/claims/undecided", {"limit": 101}),
        ("/v1/withholdings", {"state": "forgotten"}),
        ("/v1/withholdings", {"cursor": "nonsense"}),
    ):
        assert ravi.refused("GET", path, query=query) == "422 invalid_request", (path, query)
