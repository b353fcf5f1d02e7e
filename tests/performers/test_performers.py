"""Applying, paid auditions, profiles, and where a performer is paid."""

from functools import partial

import psycopg
import pytest

from marketplace.performers import payout_accounts
from tests.world import (
    DAY,
    HEARTBEAT_SECONDS,
    HOUR,
    PROFILE,
    TAKE,
    Client,
    Json,
    Person,
    World,
    upload,
)

RATE = {"currency": "USD", "rate_minor_per_hour": 3_600, "reason": "what an hour is worth"}
OFFER = {
    "brief": "Two minutes as someone who finds a letter.",
    "currency": "USD",
    "seconds_cap": 600,
}
GRACE_SECONDS = 90
NO_MORE = {"reason": "no more performers are needed"}
PASSED = {"outcome": "passed", "reason": "a good ear"}


@pytest.fixture
def applicant(world: World) -> Person:
    return world.performer(vetted=False)


@pytest.fixture
def auditioning(world: World, applicant: Person, operator: Person) -> Person:
    operator.post("/v1/audition-rates", RATE)
    operator.post(f"/v1/performers/{applicant.id}/auditions", OFFER)
    return applicant


def recorded(world: World, performer: Person, state: str = "passed") -> str:
    recording = upload(performer, "/v1/audition/recordings", TAKE.read_bytes())
    world.sql(
        "UPDATE recording SET state = %s, due_at = NULL WHERE id = %s", state, recording["id"]
    )
    identity: str = recording["id"]
    return identity


def handed_in(world: World, performer: Person, seconds: int) -> Json:
    """Auditioned for so long, with a heartbeat every minute."""
    performer.post("/v1/audition/start")
    recording = recorded(world, performer)
    for _ in range(seconds // HEARTBEAT_SECONDS):
        world.advance(HEARTBEAT_SECONDS)
        performer.post("/v1/audition/heartbeat")
    audition: Json = performer.post("/v1/audition/hand-in", {"recording_id": recording})
    return audition


class TestProfiles:
    def test_applying(self, world: World, operator: Person) -> None:
        code = operator.post("/v1/invites", {"role": "performer"})["code"]
        ana = world.person(name="Ana")
        ana.post("/v1/invites/accept", {"code": code})
        assert ana.refused("GET", "/v1/performer") == "404 not_found"
        wish = PROFILE | {"languages": ["EN-us", "en-US"]}
        applied = ana.post("/v1/performer", wish)
        assert (applied["state"], applied["languages"]) == ("applied", ["en-US"])
        assert ana.refused("POST", "/v1/performer", PROFILE) == "409 already_applied"
        assert operator.get("/v1/performers", state="applied")["items"] == [applied]

    def test_an_edit_names_what_it_saw(self, ana: Person) -> None:
        seen = ana.ask("GET", "/v1/performer").headers["etag"]
        wanted = PROFILE | {"skills": ["improv", "singing"]}
        edited = ana.ask("PUT", "/v1/performer", wanted, headers={"If-Match": seen})
        assert edited.json()["skills"] == ["improv", "singing"]
        late = ana.refused("PUT", "/v1/performer", PROFILE, headers={"If-Match": seen})
        assert late == "412 version_outdated"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"languages": []},
            {"languages": ["en"] * 21},
            {"time_zone": "Mars/Olympus"},
            {"time_zone": "../../etc/passwd"},
            {"work_country": "usa"},
            {"work_country": "ZZ"},
            {"work_country": "UK"},
            {"age_band": "17-18"},
            {"skills": ["Improv!"]},
            {"state": "vetted"},
            {"claims_limit": 100},
        ],
        ids=str,
    )
    def test_a_malformed_profile_is_422(self, ana: Person, wrong: Json) -> None:
        wanted = PROFILE | wrong
        refused = ana.refused("PUT", "/v1/performer", wanted, headers={"If-Match": '"1"'})
        assert refused == "422 invalid_request"

    def test_operators_decide_with_a_reason(self, applicant: Person, operator: Person) -> None:
        path = f"/v1/performers/{applicant.id}"
        reason = {"reason": "no recordings to hear"}
        assert operator.refused("POST", f"{path}/decline", {}) == "422 invalid_request"
        assert operator.refused("POST", f"{path}/suspend", reason) == "409 move_not_allowed"
        assert operator.refused("POST", f"{path}/reinstate", reason) == "409 move_not_allowed"
        operator.post(f"{path}/decline", reason)
        assert applicant.get("/v1/performer")["state_reason"] == reason["reason"]
        assert operator.refused("POST", f"{path}/decline", reason) == "409 move_not_allowed"


class TestTheLimitOfClaims:
    """Three at once, unless an operator says otherwise."""

    def test_an_operator_sets_it(
        self, world: World, acme: Client, ana: Person, operator: Person
    ) -> None:
        job = world.published_job(acme, tasks=5)
        path = f"/v1/performers/{ana.id}/claims-limit"
        claims = [world.claim(ana, job) for _ in range(3)]
        fourth = {"role_id": ana.get("/v1/board")["items"][0]["role_id"]}
        assert ana.refused("POST", "/v1/claims", fourth) == "409 claim_limit_reached"
        limited = operator.post(path, {"claims_limit": 4, "reason": "always on time"})
        assert (limited["claims_limit"], limited["live_claims"]) == (4, 3)
        assert ana.post("/v1/claims", fourth)["state"] == "active"
        operator.post(path, {"claims_limit": 1, "reason": "two came late"})
        fifth = {"role_id": ana.get("/v1/board")["items"][0]["role_id"]}
        assert ana.refused("POST", "/v1/claims", fifth) == "409 claim_limit_reached"
        assert ana.get(f"/v1/claims/{claims[0]['id']}")["state"] == "active"

    def test_it_is_kept_who_set_it_and_why(
        self, world: World, ana: Person, operator: Person
    ) -> None:
        seen = ana.ask("GET", "/v1/performer").headers["etag"]
        path = f"/v1/performers/{ana.id}/claims-limit"
        operator.post(path, {"claims_limit": 50, "reason": "always on time"})
        (event,) = world.sql("SELECT * FROM audit_event WHERE action = 'claims_limited'")
        assert (event["actor"], str(event["subject_id"])) == (operator.id, ana.id)
        assert (event["reason"], event["detail"]) == ("always on time", {"from": 3, "to": 50})
        late = ana.refused("PUT", "/v1/performer", PROFILE, headers={"If-Match": seen})
        assert late == "412 version_outdated"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"claims_limit": 0, "reason": "none at all"},
            {"claims_limit": 51, "reason": "all of them"},
            {"claims_limit": "5", "reason": "a text"},
            {"claims_limit": 5},
        ],
        ids=str,
    )
    def test_a_malformed_limit_is_422(self, ana: Person, operator: Person, wrong: Json) -> None:
        path = f"/v1/performers/{ana.id}/claims-limit"
        assert operator.refused("POST", path, wrong) == "422 invalid_request"

    def test_who_may_not(self, world: World, ana: Person, ravi: Person, operator: Person) -> None:
        path = f"/v1/performers/{ana.id}/claims-limit"
        wish = {"claims_limit": 5, "reason": "as many as I like"}
        assert world.anybody.refused("POST", path, wish) == "401 unauthorized"
        for person in (ana, ravi):
            assert person.refused("POST", path, wish) == "403 forbidden"
        assert operator.refused("POST", path.replace(ana.id, ravi.id), wish) == "404 not_found"


class TestAuditions:
    def test_the_time_is_paid_and_the_performer_vetted(
        self, world: World, auditioning: Person, ravi: Person
    ) -> None:
        audition = handed_in(world, auditioning, 120)
        assert audition["state"] == "submitted"
        assert 120 <= audition["paid_seconds"] <= 150
        assert audition["pay_minor"] == audition["paid_seconds"]
        assert world.ledger("platform_expense") == audition["pay_minor"]
        (waiting,) = ravi.get("/v1/auditions")["items"]
        queued = {"waiting_since": audition["ended_at"], "late": False}
        assert waiting == audition | queued
        decided = ravi.post(f"/v1/auditions/{audition['id']}/decision", PASSED)
        assert decided["state"] == "passed"
        assert auditioning.get("/v1/performer")["state"] == "vetted"
        again = ravi.refused("POST", f"/v1/auditions/{audition['id']}/decision", PASSED)
        assert again == "409 conflict"

    def test_failing_pays_the_same(self, world: World, auditioning: Person, ravi: Person) -> None:
        audition = handed_in(world, auditioning, 120)
        failed = {"outcome": "failed", "reason": "reads, does not play"}
        decided = ravi.post(f"/v1/auditions/{audition['id']}/decision", failed)
        assert decided["pay_minor"] == audition["pay_minor"]
        assert world.ledger("performer_payable", auditioning.id) == -audition["pay_minor"]
        assert auditioning.get("/v1/performer")["state"] == "declined"

    def test_pay_ends_at_the_cap(self, world: World, auditioning: Person) -> None:
        audition = handed_in(world, auditioning, 660)
        assert audition["worked_seconds"] >= 660
        assert (audition["paid_seconds"], audition["pay_minor"]) == (600, 600)

    def test_silence_is_worth_the_grace_and_no_more(
        self, world: World, auditioning: Person
    ) -> None:
        auditioning.post("/v1/audition/start")
        recording = recorded(world, auditioning)
        world.advance(HOUR)
        heard = auditioning.post("/v1/audition/heartbeat")
        assert heard["worked_seconds"] == GRACE_SECONDS
        world.advance(30)
        audition = auditioning.post("/v1/audition/hand-in", {"recording_id": recording})
        assert GRACE_SECONDS + 30 <= audition["paid_seconds"] <= GRACE_SECONDS + 40

    def test_no_more_is_paid_than_it_took(self, world: World, auditioning: Person) -> None:
        auditioning.post("/v1/audition/start")
        for _ in range(9):
            auditioning.post("/v1/audition/heartbeat")
        audition = auditioning.get("/v1/audition")
        assert audition["worked_seconds"] <= 5
        with pytest.raises(psycopg.errors.CheckViolation, match="counts as it passes"):
            world.sql("UPDATE audition SET worked_seconds = 600")
        with pytest.raises(psycopg.errors.CheckViolation, match="paid_exact"):
            world.sql("UPDATE audition SET paid_seconds = 600, pay_minor = 600")

    def test_too_late_is_409(self, world: World, auditioning: Person) -> None:
        world.advance(14 * DAY - HOUR)
        auditioning.post("/v1/audition/start")
        recording = recorded(world, auditioning)
        world.advance(DAY)
        for path, body in (
            ("heartbeat", None),
            ("hand-in", {"recording_id": recording}),
            ("start", None),
        ):
            refused = auditioning.refused("POST", f"/v1/audition/{path}", body)
            assert refused == "409 audition_overdue", path
        world.sweep("auditions")
        assert world.ledger("performer_payable", auditioning.id) == -GRACE_SECONDS

    def test_an_offer_is_not_started_after_its_time(
        self, world: World, auditioning: Person
    ) -> None:
        world.advance(14 * DAY)
        refused = auditioning.refused("POST", "/v1/audition/start")
        assert refused == "409 audition_overdue"

    def test_starting_late_leaves_a_day(self, world: World, auditioning: Person) -> None:
        world.advance(14 * DAY - 60)
        auditioning.post("/v1/audition/start")
        recording = recorded(world, auditioning)
        world.advance(DAY - 60)
        world.sweep("auditions")
        audition = auditioning.post("/v1/audition/hand-in", {"recording_id": recording})
        assert audition["state"] == "submitted"

    def test_reading_waits_for_nobody(self, world: World, auditioning: Person) -> None:
        with world.connection() as busy:
            busy.execute("SELECT FROM audition FOR UPDATE")
            assert auditioning.get("/v1/audition")["state"] == "offered"

    def test_nobody_judges_their_own(
        self, world: World, auditioning: Person, operator: Person
    ) -> None:
        code = operator.post("/v1/invites", {"role": "reviewer"})["code"]
        auditioning.post("/v1/invites/accept", {"code": code})
        audition = handed_in(world, auditioning, 60)
        assert auditioning.get("/v1/auditions")["items"] == []
        path = f"/v1/auditions/{audition['id']}/decision"
        assert auditioning.refused("POST", path, PASSED) == "403 own_audition"
        content = f"/v1/auditions/{audition['id']}/recording/content"
        assert auditioning.refused("GET", content) == "403 own_audition"

    def test_one_that_nobody_judges_in_two_weeks_is_alarms_every_day(
        self,
        world: World,
        auditioning: Person,
        ravi: Person,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        audition = handed_in(world, auditioning, 60)
        alarm = f"audition {audition['id']} waits for a reviewer since"

        def days_go_by(days: int) -> int:
            caplog.clear()
            for _ in range(days):
                world.advance(DAY)
                world.sweep("auditions")
                world.sweep("auditions")
            return sum(record.levelname == "ERROR" for record in caplog.records)

        assert days_go_by(13) == 0
        assert not ravi.get("/v1/auditions")["items"][0]["late"]
        assert days_go_by(3) == 3
        assert alarm in caplog.text
        assert ravi.get("/v1/auditions")["items"][0]["late"]
        assert auditioning.post("/v1/audition/heartbeat")["state"] == "submitted"
        assert auditioning.get("/v1/performer")["state"] == "auditioning"
        ravi.post(f"/v1/auditions/{audition['id']}/decision", PASSED)
        assert days_go_by(3) == 0
        assert auditioning.get("/v1/performer")["state"] == "vetted"

    def test_those_that_wait_are_read_in_pages_oldest_first(
        self, world: World, auditioning: Person, operator: Person, ravi: Person
    ) -> None:
        handed = [handed_in(world, auditioning, 1)["id"]]
        for number in range(4):
            other = world.performer(f"performer {number}", vetted=False)
            operator.post(f"/v1/performers/{other.id}/auditions", OFFER)
            handed.append(handed_in(world, other, 1)["id"])
        for limit in (1, 2, 3):
            pages = ravi.pages("/v1/auditions", limit=limit)
            assert [audition["id"] for page in pages for audition in page] == handed
            assert {len(page) for page in pages[:-1]} == {limit}

    def test_it_is_heard_by_whoever_judges_it(
        self, world: World, auditioning: Person, ravi: Person
    ) -> None:
        audition = handed_in(world, auditioning, 60)
        content = f"/v1/auditions/{audition['id']}/recording/content"
        assert ravi.ask("GET", content).content == TAKE.read_bytes()
        assert auditioning.refused("GET", content) == "403 forbidden"

    def test_not_before_it_is_handed_in(self, auditioning: Person, ravi: Person) -> None:
        audition = auditioning.get("/v1/audition")
        content = f"/v1/auditions/{audition['id']}/recording/content"
        assert ravi.refused("GET", content) == "404 not_found"
        path = f"/v1/auditions/{audition['id']}/decision"
        assert ravi.refused("POST", path, PASSED) == "409 conflict"

    def test_an_unusable_recording_is_409(self, world: World, auditioning: Person) -> None:
        auditioning.post("/v1/audition/start")
        recording = {"recording_id": recorded(world, auditioning, "unreadable")}
        refused = auditioning.refused("POST", "/v1/audition/hand-in", recording)
        assert refused == "409 recording_not_usable"

    def test_anothers_recording_is_404(
        self, world: World, auditioning: Person, operator: Person
    ) -> None:
        other = world.performer("another performer", vetted=False)
        operator.post(f"/v1/performers/{other.id}/auditions", OFFER)
        recording = recorded(world, other)
        auditioning.post("/v1/audition/start")
        handing_in = {"recording_id": recording}
        assert auditioning.refused("POST", "/v1/audition/hand-in", handing_in) == "404 not_found"
        assert auditioning.refused("GET", f"/v1/recordings/{recording}") == "404 not_found"

    def test_started_and_never_handed_in_is_paid_to_the_last_sign_of_life_and_the_grace(
        self, world: World, auditioning: Person
    ) -> None:
        auditioning.post("/v1/audition/start")
        world.advance(60)
        auditioning.post("/v1/audition/heartbeat")
        world.advance(15 * DAY)
        world.sweep("auditions")
        assert auditioning.get("/v1/performer")["state"] == "declined"
        paid = -world.ledger("performer_payable", auditioning.id)
        assert GRACE_SECONDS + 60 <= paid <= GRACE_SECONDS + 70
        ended = world.value("SELECT ended_at - started_at FROM audition")
        assert ended.total_seconds() == paid

    def test_never_started_is_not_paid(self, world: World, auditioning: Person) -> None:
        world.advance(15 * DAY)
        world.sweep("auditions")
        assert auditioning.refused("GET", "/v1/audition") == "404 not_found"
        assert world.ledger("performer_payable", auditioning.id) == 0

    def test_a_declined_performers_audition_ends_like_any(
        self, world: World, auditioning: Person, operator: Person
    ) -> None:
        auditioning.post("/v1/audition/start")
        operator.post(f"/v1/performers/{auditioning.id}/decline", NO_MORE)
        world.advance(15 * DAY)
        world.sweep("auditions")
        assert auditioning.refused("GET", "/v1/audition") == "404 not_found"
        assert auditioning.get("/v1/performer")["state_reason"] == NO_MORE["reason"]

    def test_a_declined_performers_audition_is_decided(
        self, world: World, auditioning: Person, operator: Person, ravi: Person
    ) -> None:
        audition = handed_in(world, auditioning, 60)
        operator.post(f"/v1/performers/{auditioning.id}/decline", NO_MORE)
        decided = ravi.post(f"/v1/auditions/{audition['id']}/decision", PASSED)
        assert decided["state"] == "passed"
        assert auditioning.get("/v1/performer")["state"] == "declined"

    def test_one_at_a_time_and_only_for_applicants(
        self, auditioning: Person, ana: Person, operator: Person
    ) -> None:
        for person in (auditioning, ana):
            refused = operator.refused("POST", f"/v1/performers/{person.id}/auditions", OFFER)
            assert refused == "409 move_not_allowed"

    def test_without_a_rate_there_is_no_audition(self, applicant: Person, operator: Person) -> None:
        refused = operator.refused("POST", f"/v1/performers/{applicant.id}/auditions", OFFER)
        assert refused == "409 audition_rate_missing"

    def test_the_audition_rate_sinks_with_notice_only(self, operator: Person) -> None:
        operator.post("/v1/audition-rates", RATE)
        lower = RATE | {"rate_minor_per_hour": 3_000}
        refused = operator.refused("POST", "/v1/audition-rates", lower)
        assert refused == "409 rate_cut_needs_notice"

    def test_starting_twice_is_409(self, auditioning: Person) -> None:
        auditioning.post("/v1/audition/start")
        assert auditioning.refused("POST", "/v1/audition/start") == "409 move_not_allowed"


WISH = {"return_url": "https://app.example/paid"}


def edit(performer: Person, **changed: str) -> None:
    seen = performer.ask("GET", "/v1/performer")
    wanted = {name: seen.json()[name] for name in PROFILE} | changed
    edited = performer.ask(
        "PUT", "/v1/performer", wanted, headers={"If-Match": seen.headers["ETag"]}
    )
    assert edited.status_code == 200, edited.text


def country_at_stripe(world: World, performer: Person) -> str | None:
    """Of the one account that Stripe has made, which is ours."""
    assert world.stripe.control("GET", "state")["objects"]["account"] == 1
    ours = world.value(
        "SELECT stripe_account_id FROM payout_account WHERE performer_id = %s", performer.id
    )
    return world.loopback.run(world.gateway.retrieve_account(ours)).country


class TestPayoutAccounts:
    def test_coming_back_does_not_mean_done(self, world: World, ana: Person) -> None:
        assert ana.refused("GET", "/v1/payout-account") == "404 not_found"
        opened = ana.post("/v1/payout-account", {"return_url": "https://app.example/paid"})
        assert opened["onboarding_url"].startswith(world.stripe.url)
        assert ana.get("/v1/payout-account")["transfers"] != "active"
        world.stripe.complete(opened["onboarding_url"], "complete")
        world.advance(300)
        world.sweep("poll_accounts")
        assert ana.get("/v1/payout-account")["transfers"] == "active"

    def test_a_restriction_is_seen_and_said(self, world: World, ana: Person) -> None:
        account = world.onboard(ana)
        world.stripe.restrict(account)
        world.advance(13 * 3_600)
        world.sweep("poll_accounts")
        seen = ana.get("/v1/payout-account")
        assert seen["transfers"] == "inactive"
        assert seen["requirement"]

    def test_what_was_seen_earlier_does_not_replace_what_was_seen_later(
        self, world: World, ana: Person
    ) -> None:
        """Two processes handle two events; the one that asked first writes last."""
        account = world.onboard(ana)
        world.stripe.restrict(account)

        def look() -> payout_accounts.Seen:
            return world.loopback.run(
                payout_accounts.look_at(world.parts.sessions, world.gateway, account)
            )

        earlier = look()
        world.stripe.lift(account)
        later = look()
        for seen in (later, earlier):
            world.transact(partial(payout_accounts.note_seen, seen=seen))
        assert ana.get("/v1/payout-account")["transfers"] == "active"
        assert world.value("SELECT seen_at FROM payout_account") == later.asked_at

    def test_two_openings_make_one_account(self, world: World, ana: Person) -> None:
        wish = {"return_url": "https://app.example/paid"}
        urls = {ana.post("/v1/payout-account", wish)["onboarding_url"] for _ in range(2)}
        assert len(urls) == 2
        assert world.stripe.control("GET", "state")["objects"]["account"] == 1

    def test_a_country_that_stripe_refuses_is_corrected(self, world: World) -> None:
        """Stripe replays its refusal under the key: the corrected profile has a new one."""
        ana = world.performer(work_country="NG")
        for _ in range(2):
            assert ana.refused("POST", "/v1/payout-account", WISH) == "409 refused_by_stripe"
        edit(ana, work_country="US")
        ana.post("/v1/payout-account", WISH)
        assert country_at_stripe(world, ana) == "US"

    @pytest.mark.parametrize("fault", ["apply_then_drop", "drop_before"])
    def test_a_lost_reply_is_asked_for_again_whatever_the_profile_says_by_now(
        self, world: World, ana: Person, fault: str
    ) -> None:
        world.stripe.fault(fault, path="/v1/accounts")
        assert ana.refused("POST", "/v1/payout-account", WISH) == "503 stripe_unavailable"
        edit(ana, work_country="DE")
        for _ in range(2):
            ana.post("/v1/payout-account", WISH)
        assert country_at_stripe(world, ana) == "US"
        kept = world.sql("SELECT asked_email, asked_country FROM payout_account")
        assert kept == [{"asked_email": None, "asked_country": None}]

    def test_a_script_is_no_return_url(self, ana: Person) -> None:
        wish = {"return_url": "javascript:alert(1)"}
        assert ana.refused("POST", "/v1/payout-account", wish) == "422 invalid_request"
