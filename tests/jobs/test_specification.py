"""What a job may ask for, and what its quotas do."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.world import DAY, Client, Json, Person, World, new_job


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"labels": {"scheme": "plutchik8"}, "emotion": "happiness"}, "is not in plutchik8"),
        ({"labels": {"scheme": "geneva20"}, "emotion": "anticipation"}, "is not in geneva20"),
        ({"labels": {"scheme": "msp17"}, "emotion": "joy"}, "is not in msp17"),
        (
            {"labels": {"wanted": [{"emotion": "bliss", "accepted_minutes": 3}]}},
            "bliss is not in big6_neutral",
        ),
        ({"labels": {"wanted": [{"emotion": "sadness", "accepted_minutes": 0}]}}, "greater than"),
        ({"speakers": {"minimum": 3}, "tasks": 2}, "2 roles cannot be filled by more people"),
        ({"speakers": {"largest_share_percent": 0}}, "greater than"),
        ({"elicitation": "improv_dyad"}, "two roles or more"),
        ({"people": 2}, "improv_solo is for scenes of one role"),
        ({"people": 5, "elicitation": "scripted"}, "at most 4"),
    ],
)
def test_what_does_not_fit_together_is_422(acme: Client, wanted: dict[str, Any], why: str) -> None:
    emotion = wanted.pop("emotion", "sadness")
    job = new_job(**wanted)
    job["tasks"][0]["roles"][0]["target"]["emotion"] = emotion
    answer = acme.ask("POST", "/v1/jobs", job)
    assert answer.status_code == 422
    assert why in answer.text


@pytest.mark.parametrize(
    ("scheme", "emotion"),
    [
        ("big6_neutral", "neutral"),
        ("msp17", "frustrated"),
        ("plutchik8", "anticipation"),
        ("geneva20", "compassion"),
        ("custom", "longing"),
    ],
)
def test_each_scheme_has_its_words(acme: Client, scheme: str, emotion: str) -> None:
    job = new_job(labels={"scheme": scheme})
    job["tasks"][0]["roles"][0]["target"]["emotion"] = emotion
    assert acme.post("/v1/jobs", job)["state"] == "draft"


def test_scenes_with_partners_are_drafted_and_quoted_but_not_opened(
    world: World, acme: Client
) -> None:
    job = world.job(acme, elicitation="improv_dyad", people=2, tasks=3)
    assert job["roles"] == {"unfunded": 6}
    assert acme.get(f"/v1/jobs/{job['id']}/quote")["roles"] == 6
    refused = acme.refused("POST", f"/v1/jobs/{job['id']}/publish", {})
    assert refused == "409 scenes_not_run_yet"
    assert acme.wallet_minor == 100_000
    assert acme.get(f"/v1/jobs/{job['id']}")["state"] == "draft"


@pytest.mark.parametrize(
    ("tasks", "speakers", "most"),
    [
        (4, {"largest_share_percent": 50}, 2),
        (4, {"minimum": 4}, 1),
        (4, {"minimum": 3}, 1),
        (5, {"minimum": 3}, 2),
        (4, {"minimum": 2}, 3),
        (4, {"minimum": 2, "largest_share_percent": 25}, 1),
        (4, {"largest_share_percent": 1}, 1),
        (4, {}, 4),
    ],
)
def test_one_person_fills_no_more_than_their_share(
    world: World, acme: Client, ana: Person, tasks: int, speakers: Json, most: int
) -> None:
    world.sql("UPDATE performer SET claims_limit = 9 WHERE person_id = %s", ana.id)
    job = world.published_job(acme, tasks=tasks, speakers=speakers)
    for _ in range(most):
        world.claim(ana, job)
    assert len(ana.get("/v1/board")["items"]) == (0 if most < tasks else tasks - most)
    if most < tasks:
        role = acme.get(f"/v1/jobs/{job['id']}/roles", state="open")["items"][0]
        refused = ana.refused("POST", "/v1/claims", {"role_id": role["id"]})
        assert refused == "409 speaker_share_reached"
        assert len(world.performer("Bo").get("/v1/board")["items"]) == tasks - most


def test_claims_at_once_do_not_overfill_the_share(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=6, speakers={"largest_share_percent": 34})
    with ThreadPoolExecutor(6) as crowd:
        answers = list(
            crowd.map(
                lambda role: ana.ask("POST", "/v1/claims", {"role_id": role}), world.roles(job)
            )
        )
    assert Counter(answer.status_code for answer in answers) == {201: 2, 409: 4}
    codes = {answer.json()["code"] for answer in answers if answer.status_code == 409}
    assert codes == {"speaker_share_reached"}


def test_a_claim_given_back_does_not_count_towards_the_share(
    world: World, acme: Client, ana: Person
) -> None:
    job = world.published_job(acme, tasks=3, speakers={"minimum": 3})
    claim = world.claim(ana, job)
    assert ana.get("/v1/board")["items"] == []
    ana.post(f"/v1/claims/{claim['id']}/release", {})
    world.claim(ana, job)
    world.advance(2 * DAY)
    world.sweep("expiry")
    assert len(ana.get("/v1/board")["items"]) == 1


def test_performers_are_told_of_the_gates_and_the_room_tone(
    world: World, acme: Client, ana: Person
) -> None:
    world.published_job(acme, tier="phone")
    assert ana.get("/v1/board")["items"][0]["audio"] == {"tier": "phone", "room_tone_seconds": 10}
