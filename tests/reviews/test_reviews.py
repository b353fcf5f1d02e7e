"""Reviewers judge takes under a lease; the verdict never touches the pay."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest

from marketplace.recordings.routes import RECHECK_SECONDS
from tests.world import (
    ACCEPT,
    DAY,
    GOOD_SCORES,
    HOUR,
    REFUSE,
    RETAKE,
    SELF_LABELS,
    TAKE,
    Client,
    Json,
    Person,
    World,
    new_job,
    upload,
)

LEASE_SECONDS = 45 * 60
PROPOSAL = {"ground": "no_work", "reason": "an hour of silence, twice"}
DECISION = {"confirm": True, "reason": "I listened: nobody is there"}


@pytest.fixture
def job(world: World, acme: Client) -> Json:
    return world.published_job(acme, tasks=3)


def submission(performer: Person, claim: Json) -> Json:
    found: Json = performer.get(f"/v1/claims/{claim['id']}/submissions")["items"][-1]
    return found


def claimed(performer: Person, claim: Json) -> Json:
    found: Json = performer.get(f"/v1/claims/{claim['id']}")
    return found


def joins_and_leaves(person: Person, client: Client) -> None:
    invite = client.member.post("/v1/client/invites", {})
    person.post("/v1/invites/accept", {"code": invite["code"]})
    left = client.member.ask("DELETE", f"/v1/client/members/{person.id}")
    assert left.status_code == 204


class TestAssignment:
    def test_the_take_that_waits_longest_comes_first(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        first = world.submitted_claim(ana, job)
        second = world.submitted_claim(world.performer("another performer"), job)
        mine = ravi.post("/v1/reviews/next")
        theirs = second_reviewer.post("/v1/reviews/next")
        assert mine["submission_id"] == submission(ana, first)["id"]
        assert mine["claim_id"] == first["id"]
        assert theirs["submission_id"] != mine["submission_id"]
        assert ravi.post("/v1/reviews/next")["id"] == mine["id"]
        assert second["id"] != first["id"]

    def test_who_performed_is_not_told(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        world.submitted_claim(ana, job)
        assert ana.id not in ravi.ask("POST", "/v1/reviews/next").text

    def test_nothing_waits(self, ravi: Person) -> None:
        assert ravi.refused("POST", "/v1/reviews/next") == "404 nothing_to_review"

    def test_a_lease_ends_and_the_take_goes_to_somebody_else(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        world.submitted_claim(ana, job)
        lost = ravi.post("/v1/reviews/next")
        assert second_reviewer.refused("POST", "/v1/reviews/next") == "404 nothing_to_review"
        world.advance(LEASE_SECONDS + 1)
        late = ravi.refused("POST", f"/v1/reviews/{lost['id']}/verdict", ACCEPT)
        assert late == "409 lease_over"
        assert second_reviewer.post("/v1/reviews/next")["submission_id"] == lost["submission_id"]

    def test_nobody_reviews_themself(self, world: World, job: Json, operator: Person) -> None:
        both = world.performer("another performer")
        code = operator.post("/v1/invites", {"role": "reviewer"})["code"]
        both.post("/v1/invites/accept", {"code": code})
        world.submitted_claim(both, job)
        assert both.refused("POST", "/v1/reviews/next") == "404 nothing_to_review"

    def test_nobody_reviews_for_their_own_client(
        self, world: World, acme: Client, job: Json, ana: Person, ravi: Person
    ) -> None:
        code = acme.member.post("/v1/client/invites")["code"]
        ravi.post("/v1/invites/accept", {"code": code})
        world.submitted_claim(ana, job)
        assert ravi.refused("POST", "/v1/reviews/next") == "404 nothing_to_review"

    def test_nobody_reviews_for_a_client_they_acted_for(
        self,
        world: World,
        acme: Client,
        job: Json,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        """They could not judge it, and would keep it from others."""
        world.submitted_claim(ana, job)
        ravi.post("/v1/reviews/next")
        joins_and_leaves(ravi, acme)
        assert ravi.refused("POST", "/v1/reviews/next") == "404 nothing_to_review"
        world.advance(LEASE_SECONDS + 1)
        assert ravi.refused("POST", "/v1/reviews/next") == "404 nothing_to_review"
        world.judge(second_reviewer, ACCEPT)

    def test_nobody_judges_for_a_client_they_joined_meanwhile(
        self, world: World, job: Json, acme: Client, ana: Person, ravi: Person
    ) -> None:
        world.submitted_claim(ana, job)
        review = ravi.post("/v1/reviews/next")
        invite = acme.member.post("/v1/client/invites", {})
        ravi.post("/v1/invites/accept", {"code": invite["code"]})
        path = f"/v1/reviews/{review['id']}/verdict"
        assert ravi.refused("POST", path, REFUSE) == "403 acts_for_the_client"

    def test_asking_twice_at_once_leases_one_take(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        for performer in (ana, world.performer("Bea"), world.performer("Cleo")):
            world.submitted_claim(performer, job)
        with ThreadPoolExecutor(6) as devices:
            leased = list(devices.map(lambda _: ravi.post("/v1/reviews/next")["id"], range(6)))
        assert len(set(leased)) == 1

    def test_anothers_review_is_404(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        world.submitted_claim(ana, job)
        review = ravi.post("/v1/reviews/next")
        path = f"/v1/reviews/{review['id']}"
        assert second_reviewer.refused("GET", path) == "404 not_found"
        assert second_reviewer.refused("POST", f"{path}/verdict", ACCEPT) == "404 not_found"
        take = review["recordings"][0]["id"]
        listened = second_reviewer.refused("GET", f"{path}/recordings/{take}/content")
        assert listened == "404 not_found"


class TestVerdicts:
    def test_accepted_is_paid_and_done(
        self, world: World, acme: Client, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.accepted_claim(ana, job, ravi)
        assert claim["state"] == "settled"
        assert submission(ana, claim)["state"] == "accepted"
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123
        assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"open": 2, "done": 1}
        assert acme.wallet_minor == 100_000 - 2 * 12_765 - 141

    def test_a_refusal_needs_a_second_reviewer(
        self,
        world: World,
        acme: Client,
        job: Json,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        claim = world.submitted_claim(ana, job)
        assert world.judge(ravi, REFUSE)["submission_state"] == "in_review"
        assert ravi.refused("POST", "/v1/reviews/next") == "404 nothing_to_review"
        review = second_reviewer.post("/v1/reviews/next")
        assert review["needs_second_opinion"]
        second_reviewer.post(f"/v1/reviews/{review['id']}/verdict", REFUSE)
        assert submission(ana, claim)["state"] == "refused"
        assert submission(ana, claim)["state_reason"] == REFUSE["comment"]
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123
        assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"open": 3}

    def test_a_second_reviewer_may_accept_what_the_first_refused(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, REFUSE)
        world.judge(second_reviewer, ACCEPT)
        assert submission(ana, claim)["state"] == "accepted"

    def test_a_verdict_is_final(self, world: World, job: Json, ana: Person, ravi: Person) -> None:
        world.submitted_claim(ana, job)
        review = ravi.post("/v1/reviews/next")
        path = f"/v1/reviews/{review['id']}/verdict"
        ravi.post(path, ACCEPT)
        assert ravi.refused("POST", path, REFUSE) == "409 lease_over"

    @pytest.mark.parametrize(
        "wrong",
        [
            ACCEPT | {"flags": ["safety"]},
            ACCEPT | {"scores": GOOD_SCORES | {"listening": 0}},
            ACCEPT | {"scores": dict.fromkeys(GOOD_SCORES, 2)},
            ACCEPT | {"scores": GOOD_SCORES | {"listening": 5}},
            ACCEPT | {"scores": GOOD_SCORES | {"listening": True}},
            ACCEPT | {"withhold": {"ground": "fraud", "reason": "a bought voice"}},
            {"verdict": "refuse", "scores": GOOD_SCORES},
            RETAKE | {"comment": ""},
            REFUSE | {"reason_code": "dull"},
            REFUSE | {"pay_minor": 0},
            REFUSE | {"reason_code": "flagged"},
            REFUSE | {"timestamps": []},
            REFUSE | {"timestamps": [{"from_seconds": 12, "to_seconds": 12}]},
            REFUSE | {"timestamps": [{"from_seconds": -1, "to_seconds": 12}]},
            REFUSE | {"timestamps": [{"from_seconds": 1, "to_seconds": 1e9}]},
            REFUSE | {"timestamps": [{"from_seconds": "1", "to_seconds": 2}]},
            REFUSE | {"timestamps": [{"from_seconds": 1, "to_seconds": 2}] * 51},
            *(
                RETAKE | {"reason_code": code}
                for code in ("emotion_not_conveyed", "not_natural", "wrong_language", "flagged")
            ),
        ],
        ids=range(21),
    )
    def test_the_rubric_is_kept(
        self, world: World, job: Json, ana: Person, ravi: Person, wrong: Json
    ) -> None:
        world.submitted_claim(ana, job)
        review = ravi.post("/v1/reviews/next")
        refused = ravi.refused("POST", f"/v1/reviews/{review['id']}/verdict", wrong)
        assert refused == "422 invalid_request"

    @pytest.mark.parametrize("code", ["emotion_not_conveyed", "wrong_language"])
    def test_what_is_wrong_with_the_whole_take_needs_no_timestamps(
        self, world: World, job: Json, ana: Person, ravi: Person, code: str
    ) -> None:
        world.submitted_claim(ana, job)
        world.judge(ravi, REFUSE | {"reason_code": code, "timestamps": []})

    def test_the_performer_is_told_what_was_wrong_and_where_but_not_who_said_so(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        assert submission(ana, claim)["verdicts"] == []
        world.judge(ravi, REFUSE | {"reason_code": "flagged", "flags": ["real_name"]})
        world.judge(second_reviewer, REFUSE | {"withhold": PROPOSAL})
        first, second = submission(ana, claim)["verdicts"]
        assert (first["reason_code"], first["flags"]) == ("flagged", ["real_name"])
        del second["decided_at"]
        assert second == {
            "verdict": "refuse",
            "reason_code": "brief_not_followed",
            "flags": [],
            "comment": REFUSE["comment"],
            "timestamps": [{"from_seconds": 12.0, "to_seconds": 30.5}],
        }
        told = ana.ask("GET", f"/v1/claims/{claim['id']}/submissions").text
        assert ravi.id not in told
        assert second_reviewer.id not in told

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ("verdict = 'retake', reason_code = 'not_natural', comment = '!'", "retake_mends_it"),
            ("verdict = 'retake', reason_code = 'technical'", "has_reason"),
            ("verdict = 'refuse', comment = '!'", "has_reason"),
            ("verdict = 'refuse', reason_code = 'technical', comment = '!'", "refusal_says_where"),
        ],
        ids=str,
    )
    def test_the_database_keeps_the_rubric_too(
        self, world: World, job: Json, ana: Person, ravi: Person, change: str, named: str
    ) -> None:
        world.submitted_claim(ana, job)
        ravi.post("/v1/reviews/next")
        with pytest.raises(psycopg.errors.CheckViolation, match=named):
            world.sql(f"UPDATE review SET decided_at = now(), {change}")


class TestRetakes:
    def test_a_retake_is_paid_with_a_fresh_deadline(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, RETAKE)
        again = claimed(ana, claim)
        assert (again["state"], again["retakes_granted"]) == ("retake", 1)
        assert again["state_reason"] == RETAKE["comment"]
        assert again["deadline"] > claim["deadline"]
        perform = ana.refused("POST", f"/v1/claims/{claim['id']}/time", {"activity": "perform"})
        assert perform == "409 move_not_allowed"
        world.work(ana, claim, "retake", 60)
        world.hand_in(ana, claim, world.take(ana, claim))
        world.judge(ravi, ACCEPT)
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["seconds"] == 120

    def test_retakes_are_limited(self, world: World, job: Json, ana: Person, ravi: Person) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, RETAKE)
        world.work(ana, claim, "retake", 60)
        world.hand_in(ana, claim, world.take(ana, claim))
        review = ravi.post("/v1/reviews/next")
        refused = ravi.refused("POST", f"/v1/reviews/{review['id']}/verdict", RETAKE)
        assert refused == "409 no_retakes_left"

    def test_a_job_without_retakes_grants_none(
        self, world: World, acme: Client, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        job = world.published_job(acme, retakes_max=0)
        world.submitted_claim(ana, job)
        review = ravi.post("/v1/reviews/next")
        refused = ravi.refused("POST", f"/v1/reviews/{review['id']}/verdict", RETAKE)
        assert refused == "409 no_retakes_left"

    def test_a_failing_take_without_a_retake_left_is_heard_and_judged(
        self, world: World, acme: Client, ana: Person, ravi: Person
    ) -> None:
        job = world.published_job(acme, retakes_max=0)
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        take = world.take(ana, claim, found="retake", content=TAKE.read_bytes())
        world.hand_in(ana, claim, take)
        review = ravi.post("/v1/reviews/next")
        heard = ravi.ask("GET", f"/v1/reviews/{review['id']}/recordings/{take}/content")
        assert heard.content == TAKE.read_bytes()
        ravi.post(f"/v1/reviews/{review['id']}/verdict", ACCEPT)
        assert submission(ana, claim)["state"] == "accepted"

    def test_an_unreadable_take_is_not_accepted(
        self,
        world: World,
        acme: Client,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        job = world.published_job(acme, retakes_max=0)
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        path = f"/v1/claims/{claim['id']}/recordings"
        takes = [upload(ana, path, content)["id"] for content in (TAKE.read_bytes(), b"noise")]
        world.hand_in(ana, claim, *takes)
        world.sweep("recordings", "reviews")
        review = ravi.post("/v1/reviews/next")
        heard = f"/v1/reviews/{review['id']}/recordings"
        assert ravi.ask("GET", f"{heard}/{takes[0]}/content").content == TAKE.read_bytes()
        assert ravi.refused("GET", f"{heard}/{takes[1]}/content") == "404 not_found"
        accepting = ravi.ask("POST", f"/v1/reviews/{review['id']}/verdict", ACCEPT)
        assert accepting.status_code == 409
        assert accepting.json()["code"] == "take_unreadable"
        assert accepting.json()["recording_ids"] == [takes[1]]
        for reviewer in (ravi, second_reviewer):
            world.judge(reviewer, REFUSE)
        assert submission(ana, claim)["state"] == "refused"

    def test_a_failing_recording_opens_a_retake_by_itself(
        self, world: World, job: Json, ana: Person
    ) -> None:
        claim = world.submitted_claim(ana, job, found="retake")
        assert submission(ana, claim)["state"] == "retake"
        assert claimed(ana, claim)["state"] == "retake"

    def test_an_unreadable_recording_is_not_handed_in(
        self, world: World, job: Json, ana: Person
    ) -> None:
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        take = world.take(ana, claim, found="unreadable")
        refused = ana.refused(
            "POST",
            f"/v1/claims/{claim['id']}/submissions",
            {"recording_ids": [take], "self_labels": {"emotion": "fear", "intensity": "low"}},
        )
        assert refused == "409 recording_not_ready"

    @pytest.mark.parametrize(
        ("asked", "given", "field"),
        [
            ({"dimension_scale": "sam5"}, {"valence": 6}, "valence"),
            ({"dimension_scale": "sam7"}, {"valence": 7, "arousal": 8}, "arousal"),
            ({"dimensions": ["valence"]}, {"valence": 1, "dominance": 1}, "dominance"),
        ],
        ids=str,
    )
    def test_self_labels_keep_to_what_the_job_asks_for(
        self, world: World, acme: Client, ana: Person, asked: Json, given: Json, field: str
    ) -> None:
        wanted = new_job()
        wanted["specification"]["labels"] |= asked
        job = acme.post("/v1/jobs", wanted)
        acme.post(f"/v1/jobs/{job['id']}/publish", {})
        (item,) = ana.get("/v1/board")["items"]
        assert item["labels"] == job["specification"]["labels"]
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        handed_in: Json = {
            "recording_ids": [world.take(ana, claim)],
            "self_labels": SELF_LABELS | {"dimensions": given},
        }
        path = f"/v1/claims/{claim['id']}/submissions"
        refused = ana.ask("POST", path, handed_in)
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error["field"] == f"body.self_labels.dimensions.{field}"
        handed_in["self_labels"]["dimensions"] = {"valence": 5}
        assert ana.post(path, handed_in)["state"] == "checking"

    def test_a_take_is_handed_in_once(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, RETAKE)
        world.work(ana, claim, "retake", 60)
        (used,) = ana.get(f"/v1/claims/{claim['id']}/recordings")["items"]
        refused = ana.refused(
            "POST",
            f"/v1/claims/{claim['id']}/submissions",
            {"recording_ids": [used["id"]], "self_labels": {"emotion": "fear", "intensity": "low"}},
        )
        assert refused == "409 recording_not_ready"

    def test_anothers_take_is_not_handed_in(self, world: World, job: Json, ana: Person) -> None:
        another = world.performer("another performer")
        theirs = world.claim(another, job)
        take = world.take(another, theirs)
        mine = world.claim(ana, job)
        world.work(ana, mine, "perform", 60)
        refused = ana.refused(
            "POST",
            f"/v1/claims/{mine['id']}/submissions",
            {"recording_ids": [take], "self_labels": {"emotion": "fear", "intensity": "low"}},
        )
        assert refused == "409 recording_not_ready"


class TestTheReviewClock:
    def test_undecided_after_72_hours_is_accepted(
        self, world: World, job: Json, ana: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.advance(3 * DAY - 60)
        world.sweep("accept")
        assert submission(ana, claim)["state"] == "in_review"
        world.advance(61)
        world.sweep("accept")
        assert submission(ana, claim)["state"] == "accepted"
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123

    def test_one_refusal_without_a_second_is_accepted_too(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, REFUSE)
        world.advance(3 * DAY + 1)
        world.sweep("accept")
        assert submission(ana, claim)["state"] == "accepted"

    def test_a_flagged_take_without_a_second_opinion_is_refused_and_paid(
        self, world: World, acme: Client, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        flagged = REFUSE | {"reason_code": "flagged", "flags": ["minors_voice"]}
        assert world.judge(ravi, flagged)["submission_state"] == "in_review"
        world.advance(3 * DAY + 1)
        world.sweep("accept")
        ended = submission(ana, claim)
        assert (ended["state"], ended["state_reason"][:23]) == (
            "refused",
            "A reviewer flagged it, ",
        )
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123
        assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"open": 3}
        assert acme.get(f"/v1/jobs/{job['id']}/recordings")["items"] == []

    def test_a_second_reviewer_may_accept_what_the_first_flagged(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, REFUSE | {"flags": ["real_name"]})
        world.judge(second_reviewer, ACCEPT)
        assert submission(ana, claim)["state"] == "accepted"

    def test_a_failing_recording_never_accepts_itself(
        self, world: World, acme: Client, ana: Person
    ) -> None:
        job = world.published_job(acme, retakes_max=0)
        claim = world.submitted_claim(ana, job, found="retake")
        assert submission(ana, claim)["state"] == "in_review"
        world.advance(3 * DAY + 1)
        world.sweep("accept")
        assert submission(ana, claim)["state"] == "refused"
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123
        assert acme.get(f"/v1/jobs/{job['id']}")["roles"] == {"open": 1}

    def test_the_clock_waits_for_the_checks(self, world: World, job: Json, ana: Person) -> None:
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        path = f"/v1/claims/{claim['id']}/recordings"
        unchecked = upload(ana, path, TAKE.read_bytes())
        world.hand_in(ana, claim, unchecked["id"])
        world.advance(9 * DAY)
        world.sweep("reviews", "accept")
        waiting = submission(ana, claim)
        assert (waiting["state"], waiting["review_due_at"]) == ("checking", None)
        world.sweep("recordings", "reviews")
        assert submission(ana, claim)["state"] == "in_review"

    def test_too_late_to_judge(self, world: World, job: Json, ana: Person, ravi: Person) -> None:
        world.submitted_claim(ana, job)
        world.advance(3 * DAY - HOUR // 2)
        review = ravi.post("/v1/reviews/next")
        world.advance(HOUR // 2 + 1)
        world.sweep("accept")
        refused = ravi.refused("POST", f"/v1/reviews/{review['id']}/verdict", REFUSE)
        assert refused == "409 lease_over"


class TestWithdrawnConsent:
    def withdraw(self, ana: Person, claim: Json) -> None:
        ana.post(f"/v1/consents/{claim['consent_grant_id']}/withdraw", {"reason": "Not my voice."})

    def test_work_in_hand_ends_and_is_paid(
        self, world: World, acme: Client, job: Json, ana: Person
    ) -> None:
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        take = world.take(ana, claim)
        self.withdraw(ana, claim)
        path = f"/v1/claims/{claim['id']}"
        one_more = {"size_bytes": 5, "sha256": "0" * 64}
        handed_in = {"recording_ids": [take], "self_labels": SELF_LABELS}
        assert ana.refused("POST", f"{path}/recordings", one_more) == "409 consent_withdrawn"
        assert ana.refused("POST", f"{path}/submissions", handed_in) == "409 consent_withdrawn"
        world.sweep("withdrawn")
        assert claimed(ana, claim)["state"] == "released"
        world.advance(3 * DAY + 1)
        world.sweep("pay", "withdrawn")
        assert ana.get(f"{path}/pay")["pay_minor"] == 123

    def test_a_take_in_review_is_neither_heard_nor_accepted(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        take = world.take(ana, claim, content=TAKE.read_bytes())
        world.hand_in(ana, claim, take)
        review = ravi.post("/v1/reviews/next")
        path = f"/v1/reviews/{review['id']}"
        content = f"{path}/recordings/{take}/content"
        assert ravi.ask("GET", content).status_code == 200
        self.withdraw(ana, claim)
        assert ravi.refused("GET", content) == "409 consent_withdrawn"
        assert ravi.refused("POST", f"{path}/verdict", ACCEPT) == "409 consent_withdrawn"
        world.sweep("withdrawn")
        assert claimed(ana, claim)["state"] == "settled"
        assert submission(ana, claim)["state"] == "refused"
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123

    def test_who_listens_at_that_moment_hears_no_more(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        take = world.take(ana, claim, content=os.urandom(48 << 20))
        world.hand_in(ana, claim, take)
        review = ravi.post("/v1/reviews/next")
        content = f"{world.url}/v1/reviews/{review['id']}/recordings/{take}/content"
        token = {"Authorization": f"Bearer {ravi.token}"}
        with world.http.stream("GET", content, headers=token) as listening:
            pieces = listening.iter_raw(1 << 16)
            next(pieces)
            self.withdraw(ana, claim)
            time.sleep(RECHECK_SECONDS)
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)

    def test_it_is_not_accepted_by_itself_either(
        self, world: World, job: Json, ana: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        self.withdraw(ana, claim)
        world.advance(3 * DAY + 1)
        world.sweep("accept")
        assert submission(ana, claim)["state"] == "in_review"
        world.sweep("withdrawn")
        assert submission(ana, claim)["state"] == "refused"


class TestWithholding:
    @pytest.fixture
    def ended(self, world: World, job: Json, ana: Person) -> Json:
        """Released with 60 s on it: 1.41 waits in a reserve of its own."""
        claim = world.claim(ana, job)
        world.work(ana, claim, "perform", 60)
        ana.post(f"/v1/claims/{claim['id']}/release", {})
        return claim

    def propose(self, reviewer: Person, claim: Json) -> Any:
        return reviewer.post(f"/v1/claims/{claim['id']}/withholdings", PROPOSAL)

    def test_two_people_withhold_and_the_money_waits_for_an_appeal(
        self,
        world: World,
        acme: Client,
        ended: Json,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        proposed = self.propose(ravi, ended)
        path = f"/v1/withholdings/{proposed['id']}/decision"
        assert ravi.refused("POST", path, DECISION) == "403 second_person_needed"
        confirmed = second_reviewer.post(path, DECISION)
        assert confirmed["state"] == "confirmed"
        decision = ana.get(f"/v1/claims/{ended['id']}/pay")
        assert (decision["outcome"], decision["pay_minor"]) == ("withhold", 0)
        assert decision["reason"] == "no_work: an hour of silence, twice"
        assert acme.wallet_minor == 100_000 - 3 * 12_765 - 141
        world.advance(29 * DAY)
        world.sweep("withheld")
        assert acme.wallet_minor == 100_000 - 3 * 12_765 - 141
        world.advance(DAY + 1)
        world.sweep("withheld")
        assert acme.wallet_minor == 100_000 - 3 * 12_765
        assert world.ledger("performer_payable", ana.id) == 0

    def test_rejected_is_paid_at_once(
        self, world: World, ended: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        proposed = self.propose(ravi, ended)
        path = f"/v1/withholdings/{proposed['id']}/decision"
        second_reviewer.post(path, {"confirm": False, "reason": "she is there, very quiet"})
        assert ana.get(f"/v1/claims/{ended['id']}/pay")["pay_minor"] == 123
        assert second_reviewer.refused("POST", path, DECISION) == "409 move_not_allowed"

    def test_undecided_is_paid(self, world: World, ended: Json, ana: Person, ravi: Person) -> None:
        self.propose(ravi, ended)
        world.advance(3 * DAY + 1)
        world.sweep("pay")
        assert ana.get(f"/v1/claims/{ended['id']}/pay")["pay_minor"] == 123
        (rejected,) = ravi.get("/v1/withholdings", state="rejected")["items"]
        assert rejected["state_reason"] == "Nobody confirmed it in time."

    def test_with_a_refusal(
        self,
        world: World,
        acme: Client,
        job: Json,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        claim = world.submitted_claim(ana, job)
        assert world.judge(ravi, REFUSE)["withholding_id"] is None
        verdict = world.judge(second_reviewer, REFUSE | {"withhold": PROPOSAL})
        assert verdict["claim_id"] == claim["id"]
        assert claimed(ana, claim)["pay_due_at"] is not None
        ravi.post(f"/v1/withholdings/{verdict['withholding_id']}/decision", DECISION)
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 0

    def test_the_first_reviewers_proposal_counts_too(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, REFUSE | {"withhold": PROPOSAL})
        assert second_reviewer.get("/v1/withholdings")["items"] == []
        verdict = world.judge(second_reviewer, REFUSE)
        (proposed,) = second_reviewer.get("/v1/withholdings", state="proposed")["items"]
        assert verdict["withholding_id"] == proposed["id"]
        assert proposed["proposed_by"] == ravi.id
        assert {name: proposed[name] for name in PROPOSAL} == PROPOSAL
        path = f"/v1/withholdings/{proposed['id']}/decision"
        assert ravi.refused("POST", path, DECISION) == "403 second_person_needed"
        second_reviewer.post(path, DECISION)
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["outcome"] == "withhold"

    def test_a_proposer_who_joined_the_client_since_has_no_word(
        self,
        world: World,
        job: Json,
        acme: Client,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        """And does not stand in the way of the second reviewer's verdict."""
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, REFUSE | {"withhold": PROPOSAL})
        invite = acme.member.post("/v1/client/invites", {})
        ravi.post("/v1/invites/accept", {"code": invite["code"]})
        world.judge(second_reviewer, REFUSE)
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["outcome"] == "pay"

    def test_a_proposal_falls_with_its_refusal(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, REFUSE | {"withhold": PROPOSAL})
        world.judge(second_reviewer, ACCEPT)
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123
        assert ravi.get("/v1/withholdings")["items"] == []

    def test_two_proposals_are_one(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        world.submitted_claim(ana, job)
        for reviewer in (ravi, second_reviewer):
            world.judge(reviewer, REFUSE | {"withhold": PROPOSAL})
        (proposed,) = ravi.get("/v1/withholdings")["items"]
        assert proposed["proposed_by"] == ravi.id

    def test_without_a_second_of_time_nothing_is_withheld(
        self, world: World, job: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        claim = world.claim(ana, job)
        take = world.take(ana, claim)
        world.advance_to(world.now + timedelta(seconds=1))
        ana.post(f"/v1/claims/{claim['id']}/time", {"activity": "perform"})
        world.hand_in(ana, claim, take)
        for reviewer in (ravi, second_reviewer):
            world.judge(reviewer, REFUSE | {"withhold": PROPOSAL})
        decision = ana.get(f"/v1/claims/{claim['id']}/pay")
        assert (decision["outcome"], decision["seconds"]) == ("pay", 0)

    def test_nobody_withholds_for_a_client_they_act_for(
        self, world: World, ended: Json, acme: Client, ravi: Person, second_reviewer: Person
    ) -> None:
        """The money would go back to their own wallet."""
        path = f"/v1/claims/{ended['id']}"
        proposed = ravi.post(f"{path}/withholdings", PROPOSAL)
        for reviewer in (ravi, second_reviewer):
            invite = acme.member.post("/v1/client/invites", {})
            reviewer.post("/v1/invites/accept", {"code": invite["code"]})
        decision = f"/v1/withholdings/{proposed['id']}/decision"
        assert second_reviewer.refused("POST", decision, DECISION) == "403 acts_for_the_client"
        assert ravi.refused("POST", f"{path}/pay") == "403 acts_for_the_client"

    def test_who_acted_for_the_client_since_has_lost_their_word_on_it(
        self,
        world: World,
        job: Json,
        acme: Client,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        """And is in nobody's way."""
        claim = world.submitted_claim(ana, job, seconds=60)
        world.judge(ravi, REFUSE | {"withhold": PROPOSAL})
        joins_and_leaves(ravi, acme)
        world.judge(second_reviewer, REFUSE)
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123

    def test_what_may_be_paid_after_all_stays_set_aside(
        self,
        world: World,
        ended: Json,
        acme: Client,
        ana: Person,
        ravi: Person,
        second_reviewer: Person,
    ) -> None:
        proposed = self.propose(ravi, ended)
        second_reviewer.post(f"/v1/withholdings/{proposed['id']}/decision", DECISION)
        world.advance(29 * DAY)
        finn, fay = world.finance("Finn"), world.finance("Fay")
        wanted = {"seconds": 60, "reason": "She is there, very quiet."}
        correction = finn.post(f"/v1/claims/{ended['id']}/corrections", wanted)
        world.advance(2 * DAY)
        world.sweep("withheld")
        assert acme.wallet_minor == 100_000 - 3 * 12_765 - 141
        assert fay.post(f"/v1/corrections/{correction['id']}/approve")["state"] == "approved"
        assert world.ledger("platform_expense") == 0, "it was paid out of what was set aside"
        assert world.ledger("performer_payable", ana.id) == -123

    def test_not_once_the_pay_is_due(
        self, world: World, ended: Json, ravi: Person, second_reviewer: Person, ana: Person
    ) -> None:
        """Overdue means pay, also before the sweep comes by."""
        path = f"/v1/claims/{ended['id']}"
        proposed = ravi.post(f"{path}/withholdings", PROPOSAL)
        world.advance(3 * DAY + 1)
        decision = f"/v1/withholdings/{proposed['id']}/decision"
        assert second_reviewer.refused("POST", decision, DECISION) == "409 pay_already_decided"
        world.sweep("pay")
        assert ana.get(f"{path}/pay")["outcome"] == "pay"

    def test_paid_after_all_by_who_proposed_it(
        self, world: World, ended: Json, ana: Person, ravi: Person, second_reviewer: Person
    ) -> None:
        """Taking one's own word back is in the performer's favour: it takes nobody else."""
        proposed = self.propose(ravi, ended)
        assert ravi.post(f"/v1/claims/{ended['id']}/pay")["pay_minor"] == 123
        assert ana.get(f"/v1/claims/{ended['id']}/pay")["outcome"] == "pay"
        (taken_back,) = ravi.get("/v1/withholdings")["items"]
        assert (taken_back["state"], taken_back["decided_by"]) == ("rejected", None)
        assert "took it back" in taken_back["state_reason"]
        path = f"/v1/withholdings/{proposed['id']}/decision"
        assert second_reviewer.refused("POST", path, DECISION) == "409 move_not_allowed"

    def test_paid_by_somebody_else_than_who_proposed_it(
        self, ended: Json, ravi: Person, operator: Person
    ) -> None:
        self.propose(ravi, ended)
        operator.post(f"/v1/claims/{ended['id']}/pay")
        (rejected,) = ravi.get("/v1/withholdings")["items"]
        assert (rejected["state"], rejected["decided_by"]) == ("rejected", operator.id)

    def test_one_proposal_at_a_time(
        self, ended: Json, ravi: Person, second_reviewer: Person
    ) -> None:
        self.propose(ravi, ended)
        path = f"/v1/claims/{ended['id']}/withholdings"
        assert second_reviewer.refused("POST", path, PROPOSAL) == "409 conflict"

    def test_not_once_the_pay_is_decided(
        self, world: World, job: Json, ana: Person, ravi: Person
    ) -> None:
        claim = world.accepted_claim(ana, job, ravi)
        path = f"/v1/claims/{claim['id']}/withholdings"
        assert ravi.refused("POST", path, PROPOSAL) == "409 pay_already_decided"
        assert ravi.refused("POST", f"/v1/claims/{claim['id']}/pay") == "409 pay_already_decided"

    def test_a_reason_is_required(self, ended: Json, ravi: Person) -> None:
        path = f"/v1/claims/{ended['id']}/withholdings"
        for wrong in ({"ground": "no_work"}, {"ground": "dull", "reason": "so dull"}):
            assert ravi.refused("POST", path, wrong) == "422 invalid_request"
