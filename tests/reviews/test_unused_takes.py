"""Takes that were never handed in: few at a time, and gone when nobody can need them any more."""

from pathlib import Path

import psycopg
import pytest

from marketplace.recordings import service
from tests.world import DAY, RETAKE, TAKE, Client, Json, Person, World, upload

BYTES = TAKE.read_bytes()
WANTED = {"size_bytes": 5, "sha256": "0" * 64}


@pytest.fixture
def claim(world: World, acme: Client, ana: Person) -> Json:
    claim = world.claim(ana, world.published_job(acme))
    world.work(ana, claim, "perform", 60)
    return claim


@pytest.fixture
def bea(world: World, operator: Person) -> Person:
    """She has an audition to do."""
    bea = world.performer("Bea", vetted=False)
    rate = {"currency": "USD", "rate_minor_per_hour": 3_600, "reason": "a fair hour"}
    operator.post("/v1/audition-rates", rate)
    offer = {"brief": "Two minutes.", "currency": "USD", "seconds_cap": 600}
    operator.post(f"/v1/performers/{bea.id}/auditions", offer)
    return bea


def is_stored(world: World, take: str) -> bool:
    return Path(world.settings.storage_url, "recordings", take).exists()


def state(ana: Person, take: str) -> str:
    found: str = ana.get(f"/v1/recordings/{take}")["state"]
    return found


def uploaded(world: World, ana: Person, claim: Json, *, found: str = "passed") -> str:
    return world.take(ana, claim, found=found, content=BYTES)


def release(ana: Person, claim: Json) -> None:
    ana.post(f"/v1/claims/{claim['id']}/release", {})


class TestTheLimit:
    def test_twenty_takes_may_be_kept(self, world: World, ana: Person, claim: Json) -> None:
        for _ in range(service.MOST_TAKES):
            world.take(ana, claim)
        path = f"/v1/claims/{claim['id']}/recordings"
        assert ana.refused("POST", path, WANTED) == "409 too_many_takes"

    def test_those_without_bytes_do_not_count(self, world: World, ana: Person, claim: Json) -> None:
        for _ in range(service.MOST_TAKES):
            world.take(ana, claim, found="unreadable")
        world.take(ana, claim)

    def test_a_retake_has_takes_of_its_own(
        self, world: World, ana: Person, ravi: Person, claim: Json
    ) -> None:
        takes = [world.take(ana, claim) for _ in range(service.MOST_TAKES)]
        world.hand_in(ana, claim, *takes)
        world.judge(ravi, RETAKE)
        for _ in range(service.MOST_TAKES):
            world.take(ana, claim)
        path = f"/v1/claims/{claim['id']}/recordings"
        assert ana.refused("POST", path, WANTED) == "409 too_many_takes"

    def test_another_claim_is_not_touched(
        self, world: World, acme: Client, ana: Person, claim: Json
    ) -> None:
        for _ in range(service.MOST_TAKES):
            world.take(ana, claim)
        world.take(ana, world.claim(ana, world.published_job(acme)))

    def test_an_audition_has_the_same(self, world: World, bea: Person) -> None:
        path = "/v1/audition/recordings"
        for _ in range(service.MOST_TAKES):
            bea.post(path, WANTED)
            world.sql("UPDATE recording SET state = 'checking' WHERE state = 'uploading'")
            world.sql("UPDATE recording SET state = 'passed' WHERE state = 'checking'")
        assert bea.refused("POST", path, WANTED) == "409 too_many_takes"


class TestPurging:
    def test_what_was_not_handed_in_goes_30_days_after_the_claim(
        self, world: World, acme: Client, ana: Person, claim: Json
    ) -> None:
        takes = [uploaded(world, ana, claim, found=found) for found in ("passed", "look", "retake")]
        world.advance(40 * DAY)
        assert world.sweep("unused") == 0
        release(ana, claim)
        start = acme.get("/v1/events")["next_cursor"]
        world.advance(30 * DAY - 60)
        assert world.sweep("unused") == 0
        assert all(is_stored(world, take) for take in takes)
        world.advance(61)
        assert world.sweep("unused") == 3
        for take in takes:
            gone = ana.get(f"/v1/recordings/{take}")
            assert (gone["state"], gone["state_reason"]) == ("purged", "It was never handed in.")
            assert not is_stored(world, take)
            again = ana.refused("PUT", gone["upload_path"], content=BYTES)
            assert again == "409 recording_given_up"
        told = acme.get("/v1/events", cursor=start)["items"]
        assert [event["type"] for event in told] == ["recording.purged"] * 3
        assert world.sweep("unused") == 0

    def test_what_was_handed_in_stays(
        self, world: World, ana: Person, ravi: Person, claim: Json
    ) -> None:
        kept, spare = uploaded(world, ana, claim), uploaded(world, ana, claim)
        world.hand_in(ana, claim, kept)
        world.advance(3 * DAY + 1)
        world.sweep("accept")
        world.advance(31 * DAY)
        world.sweep("unused")
        assert (state(ana, kept), is_stored(world, kept)) == ("passed", True)
        assert (state(ana, spare), is_stored(world, spare)) == ("purged", False)

    def test_nor_does_the_database_let_it_go(self, world: World, ana: Person, claim: Json) -> None:
        kept = world.take(ana, claim)
        world.hand_in(ana, claim, kept)
        with pytest.raises(psycopg.errors.IntegrityError, match="was handed in and stays"):
            world.sql("UPDATE recording SET state = 'purged' WHERE id = %s", kept)

    def test_of_an_auditions_takes_the_one_that_was_judged_stays(
        self, world: World, bea: Person, ravi: Person
    ) -> None:
        bea.post("/v1/audition/start")
        handed_in, spare = (upload(bea, "/v1/audition/recordings", BYTES)["id"] for _ in range(2))
        world.sweep("recordings")
        bea.post("/v1/audition/hand-in", {"recording_id": handed_in})
        world.advance(31 * DAY)
        assert world.sweep("unused") == 0
        audition = world.value("SELECT id FROM audition")
        decision = {"outcome": "passed", "reason": "a good ear"}
        ravi.post(f"/v1/auditions/{audition}/decision", decision)
        assert world.sweep("unused") == 1
        assert (state(bea, handed_in), state(bea, spare)) == ("passed", "purged")
        assert is_stored(world, handed_in)
        with pytest.raises(psycopg.errors.IntegrityError, match="was handed in and stays"):
            world.sql("UPDATE recording SET state = 'purged' WHERE id = %s", handed_in)
