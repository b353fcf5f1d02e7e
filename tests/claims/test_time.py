"""Paid time: whole seconds, stamped by the server, within caps, never twice at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from time import sleep
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.world import ACCEPT, DAY, HOUR, RETAKE, Client, Json, Person, World


def start(performer: Person, claim: Json, activity: str) -> Json:
    answer: Json = performer.post(f"/v1/claims/{claim['id']}/time", {"activity": activity})
    return answer


def beat(performer: Person, claim: Json) -> Json:
    answer: Json = performer.post(f"/v1/claims/{claim['id']}/heartbeat")
    return answer


def entries(performer: Person, claim: Json) -> list[Json]:
    found: list[Json] = performer.get(f"/v1/claims/{claim['id']}/time")["entries"]
    return found


def seconds(entry: Json) -> float:
    lasted = datetime.fromisoformat(entry["ended_at"]) - datetime.fromisoformat(entry["started_at"])
    return lasted.total_seconds()


@pytest.fixture
def claim(world: World, acme: Client, ana: Person) -> Json:
    return world.claim(ana, world.published_job(acme))


def test_work_is_counted_to_the_second(world: World, ana: Person, claim: Json) -> None:
    world.work(ana, claim, "prep", 77)
    spent = world.work(ana, claim, "perform", 133)
    assert spent["preparing_seconds"] == 77
    assert spent["performing_seconds"] == 133
    assert spent["total_seconds"] == 210
    assert spent["pay_minor"] == 432
    assert spent["entry"]["ended_by"] == "performer"


def test_the_prep_cap_is_shared_and_said(world: World, ana: Person, claim: Json) -> None:
    world.work(ana, claim, "brief", 200)
    world.work(ana, claim, "wait", 100)
    start(ana, claim, "prep")
    for _ in range(6):
        world.advance(60)
        answer = beat(ana, claim)
    assert answer["entry"]["ended_by"] == "cap"
    assert answer["preparing_seconds"] == answer["preparing_cap_seconds"] == 600
    path = f"/v1/claims/{claim['id']}/time"
    for activity in ("brief", "prep", "wait"):
        refused = ana.refused("POST", path, {"activity": activity})
        assert refused == "409 time_cap_reached"
    assert start(ana, claim, "perform")["entry"]["activity"] == "perform"


def test_the_perform_cap_ends_it_without_anyone_asking(
    world: World, ana: Person, claim: Json
) -> None:
    start(ana, claim, "perform")
    for _ in range(41):
        world.advance(60)
        world.sweep("time")
        beat(ana, claim)
    (entry,) = entries(ana, claim)
    assert (seconds(entry), entry["ended_by"]) == (2_400, "cap")


def test_silence_ends_at_the_last_sign_of_life_and_the_grace(
    world: World, ana: Person, claim: Json
) -> None:
    start(ana, claim, "perform")
    world.advance(60)
    heard = beat(ana, claim)
    world.advance(HOUR)
    answer = beat(ana, claim)
    assert answer["entry"]["ended_by"] == "silence"
    assert 150 <= answer["performing_seconds"] <= 160  # 60 s and the grace of 90 s
    assert heard["entry"]["ended_at"] is None


def test_the_sweep_ends_what_fell_silent(world: World, ana: Person, claim: Json) -> None:
    start(ana, claim, "prep")
    world.advance(80)
    assert world.sweep("time") == 0
    world.advance(12)
    assert world.sweep("time") == 1
    (entry,) = entries(ana, claim)
    assert (seconds(entry), entry["ended_by"]) == (90, "silence")


def test_a_late_heartbeat_does_not_revive(world: World, ana: Person, claim: Json) -> None:
    start(ana, claim, "prep")
    world.advance(200)
    beat(ana, claim)
    world.advance(60)
    assert seconds(beat(ana, claim)["entry"]) == 90


def test_time_ends_at_the_deadline(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, claim_window_seconds=60, prep_seconds_cap=3_600)
    claim = world.claim(ana, job)
    start(ana, claim, "prep")
    ana.post(f"/v1/claims/{claim['id']}/time/stop")
    world.advance(101 * 60)
    late = ana.refused("POST", f"/v1/claims/{claim['id']}/time", {"activity": "prep"})
    assert late == "409 move_not_allowed"


def test_the_deadline_cuts_a_running_entry(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, claim_window_seconds=60, prep_seconds_cap=600)
    claim = world.claim(ana, job)
    world.work(ana, claim, "prep", 1)  # the deadline is now 3,000 s after this
    deadline = datetime.fromisoformat(ana.get(f"/v1/claims/{claim['id']}")["deadline"])
    world.advance_to(deadline - timedelta(seconds=30))
    entry = start(ana, claim, "perform")["entry"]
    assert datetime.fromisoformat(entry["ends_by"]) == deadline
    world.advance(60)
    world.sweep("expiry")
    last = entries(ana, claim)[-1]
    assert datetime.fromisoformat(last["ended_at"]) == deadline
    assert last["ended_by"] == "deadline"


def test_switching_telescopes(world: World, ana: Person, claim: Json) -> None:
    """What truncation takes from one entry it gives to the next."""
    for activity in ("brief", "prep", "wait", "perform", "prep", "perform", "wait"):
        start(ana, claim, activity)
        world.advance(7)
    ana.post(f"/v1/claims/{claim['id']}/time/stop")
    found = entries(ana, claim)
    assert len(found) == 7
    for one, next_one in pairwise(found):
        assert one["ended_at"] == next_one["started_at"]
        assert one["ended_by"] == "switched"
    whole = datetime.fromisoformat(found[-1]["ended_at"]) - datetime.fromisoformat(
        found[0]["started_at"]
    )
    assert sum(map(seconds, found)) == whole.total_seconds()


def test_switching_forty_times_gains_nothing(world: World, ana: Person, claim: Json) -> None:
    before = world.now
    for _ in range(20):
        start(ana, claim, "prep")
        start(ana, claim, "perform")
    ana.post(f"/v1/claims/{claim['id']}/time/stop")
    passed = (world.now - before).total_seconds()
    assert sum(map(seconds, entries(ana, claim))) <= passed + 1


def test_nobody_works_in_two_claims_at_once(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme, tasks=2)
    one, two = world.claim(ana, job), world.claim(ana, job)
    start(ana, one, "prep")
    world.advance(30)
    start(ana, two, "prep")
    (ended,) = entries(ana, one)
    assert ended["ended_by"] == "switched"
    (running,) = entries(ana, two)
    assert running["started_at"] == ended["ended_at"]
    assert running["ended_at"] is None


def test_two_devices_share_one_entry(world: World, ana: Person, claim: Json) -> None:
    start(ana, claim, "prep")
    world.advance(20)
    start(ana, claim, "prep")
    world.advance(20)
    ana.post(f"/v1/claims/{claim['id']}/time/stop")
    assert 40 <= sum(map(seconds, entries(ana, claim))) <= 50


def test_stopping_what_never_ran_is_409(ana: Person, claim: Json) -> None:
    for verb in ("time/stop", "heartbeat"):
        refused = ana.refused("POST", f"/v1/claims/{claim['id']}/{verb}")
        assert refused == "409 no_running_time"


def test_a_retake_is_not_worked_before_it_is_granted(ana: Person, claim: Json) -> None:
    refused = ana.refused("POST", f"/v1/claims/{claim['id']}/time", {"activity": "retake"})
    assert refused == "409 move_not_allowed"


def test_an_unknown_activity_is_422(ana: Person, claim: Json) -> None:
    for activity in ("lunch", "", None, 1):
        refused = ana.refused("POST", f"/v1/claims/{claim['id']}/time", {"activity": activity})
        assert refused == "422 invalid_request"


def test_handing_in_stops_the_time(world: World, ana: Person, claim: Json) -> None:
    start(ana, claim, "perform")
    world.advance(30)
    world.hand_in(ana, claim, world.take(ana, claim))
    (entry,) = entries(ana, claim)
    assert entry["ended_by"] == "submission"
    world.advance(30)
    refused = ana.refused("POST", f"/v1/claims/{claim['id']}/time", {"activity": "perform"})
    assert refused == "409 move_not_allowed"


class Working(RuleBasedStateMachine):
    """Ana does anything at any time on two claims; the clock decides what it is worth."""

    world: World
    acme: Client

    @initialize()
    def begin(self) -> None:
        self.ana = self.world.performer()
        job = self.world.published_job(self.acme, tasks=2, retakes_max=0)
        self.claims = [self.world.claim(self.ana, job) for _ in range(2)]
        self.began = self.world.now

    def _ask(self, verb: str, claim: int, body: Any = None) -> None:
        path = f"/v1/claims/{self.claims[claim]['id']}/{verb}"
        assert self.ana.ask("POST", path, body).status_code in {200, 201, 409}

    @rule(claim=st.integers(0, 1), activity=st.sampled_from(["brief", "prep", "wait", "perform"]))
    def switch(self, claim: int, activity: str) -> None:
        self._ask("time", claim, {"activity": activity})

    @rule(claim=st.integers(0, 1))
    def stop(self, claim: int) -> None:
        self._ask("time/stop", claim)

    @rule(claim=st.integers(0, 1))
    def live_on(self, claim: int) -> None:
        self._ask("heartbeat", claim)

    @rule(pause=st.integers(1, 400))
    def wait(self, pause: int) -> None:
        self.world.advance(pause)

    @rule()
    def sweep(self) -> None:
        self.world.sweep("time", "expiry")

    @invariant()
    def worth_no_more_than_it_took(self) -> None:
        found = self.world.sql(
            "SELECT claim_id, activity, started_at, coalesce(ended_at, started_at) AS ended_at,"
            " extract(epoch FROM coalesce(ended_at, started_at) - started_at)::int AS seconds"
            " FROM time_entry WHERE performer_id = %s ORDER BY started_at, id",
            self.ana.id,
        )
        passed = (self.world.now - self.began).total_seconds()
        assert sum(entry["seconds"] for entry in found) <= passed + 1
        for one, next_one in pairwise(found):
            assert one["ended_at"] <= next_one["started_at"]
        for claim in self.claims:
            mine = [entry for entry in found if str(entry["claim_id"]) == claim["id"]]
            performed = sum(e["seconds"] for e in mine if e["activity"] == "perform")
            assert performed <= 2_400
            assert sum(entry["seconds"] for entry in mine) - performed <= 600


def test_time_is_never_worth_more_than_it_took(world: World) -> None:
    Working.world, Working.acme = world, world.client(deposit_minor=10_000_000)
    run: Any = Working.TestCase
    run.settings = settings(
        max_examples=12,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run().runTest()
    world.advance(DAY)


def test_starts_from_several_devices_at_once_follow_one_another(
    world: World, acme: Client, ana: Person
) -> None:
    job = world.published_job(acme, tasks=3)
    claims = [world.claim(ana, job) for _ in range(3)]
    with ThreadPoolExecutor(len(claims)) as devices:
        for _ in range(5):
            started = list(devices.map(lambda claim: start(ana, claim, "prep"), claims))
            assert len(started) == len(claims)
    running = world.sql("SELECT claim_id FROM time_entry WHERE ended_at IS NULL")
    assert len(running) == 1
    spent = sum(ana.get(f"/v1/claims/{claim['id']}/time")["total_seconds"] for claim in claims)
    first = min(datetime.fromisoformat(claim["claimed_at"]) for claim in claims)
    assert spent <= (world.now - first).total_seconds()


LASTS = "extract(epoch FROM coalesce(ended_at, ends_by) - started_at)::int"
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def promised_seconds(world: World, claim: Json) -> int:
    """Ended time, and what runs up to where it ends at the latest."""
    total: int = world.value(
        f"SELECT coalesce(sum({LASTS}), 0)::int FROM time_entry WHERE claim_id = %s", claim["id"]
    )
    return total


def keep_on(world: World, performer: Person, claim: Json, seconds: int) -> None:
    for _ in range(seconds // 60):
        world.advance(60)
        beat(performer, claim)


@pytest.mark.parametrize("ended_by", ["performer", "silence", "cap"])
def test_what_ends_while_the_next_starts_is_counted(
    world: World, ana: Person, claim: Json, ended_by: str
) -> None:
    """A start waits for whoever ends the running entry, and sees how long that was."""
    start(ana, claim, "perform")
    keep_on(world, ana, claim, 1_200)
    with world.connection() as ending, ThreadPoolExecutor(1) as phone:
        ending.execute(
            "UPDATE time_entry SET ended_at = date_trunc('second', marketplace_now()),"
            " ended_by = %s WHERE ended_at IS NULL",
            [ended_by],
        )
        starting = phone.submit(start, ana, claim, "perform")
        while not world.value(WAITING):
            sleep(0.01)
        ending.commit()
        entry = starting.result()["entry"]
    ends_by = datetime.fromisoformat(entry["ends_by"])
    assert ends_by - datetime.fromisoformat(entry["started_at"]) <= timedelta(seconds=1_200)
    assert promised_seconds(world, claim) == 2_400


def test_no_cap_is_passed_by_starting_and_ending_at_once(
    world: World, ana: Person, claim: Json
) -> None:
    """One phone starts, another stops or beats, and the sweep comes by, all at once."""
    path = f"/v1/claims/{claim['id']}"
    with ThreadPoolExecutor(3) as crowd:
        for turn in range(24):
            start(ana, claim, "perform")
            # 80 seconds go on, after 100 it has fallen silent.
            world.advance(80 if turn % 2 else 100)
            verb = "heartbeat" if turn % 4 == 0 else "time/stop"
            ending = crowd.submit(ana.ask, "POST", f"{path}/{verb}")
            starting = crowd.submit(ana.ask, "POST", f"{path}/time", {"activity": "perform"})
            swept = crowd.submit(world.sweep, "time")
            answers = {each.result().status_code for each in (starting, ending)}
            assert answers <= {200, 201}
            assert swept.result() in {0, 1}
            assert promised_seconds(world, claim) <= 2_400
    keep_on(world, ana, claim, 600)
    ana.post(f"{path}/release", {})
    world.advance(3 * DAY + 1)
    world.sweep("pay")
    assert ana.get(f"{path}/pay")["seconds"] <= 2_400


def test_giving_back_and_starting_at_once_leaves_nothing_running(
    world: World, acme: Client, ana: Person
) -> None:
    job = world.published_job(acme, tasks=6)
    with ThreadPoolExecutor(2) as devices:
        for _ in range(6):
            claim = world.claim(ana, job)
            path = f"/v1/claims/{claim['id']}"
            start(ana, claim, "prep")
            world.advance(30)
            starting = devices.submit(ana.ask, "POST", f"{path}/time", {"activity": "perform"})
            assert devices.submit(ana.ask, "POST", f"{path}/release", {}).result().is_success
            assert starting.result().status_code in {201, 409}
            assert all(entry["ended_at"] for entry in entries(ana, claim))


def test_switching_says_what_ended_the_entry(world: World, acme: Client, ana: Person) -> None:
    """The same as if the sweep had come by first."""
    one = world.claim(ana, world.published_job(acme, claim_window_seconds=60))
    two = world.claim(ana, world.published_job(acme))
    world.work(ana, one, "prep", 1)
    deadline = datetime.fromisoformat(ana.get(f"/v1/claims/{one['id']}")["deadline"])
    start(ana, two, "prep")
    keep_on(world, ana, two, 540)
    world.advance(61)
    start(ana, two, "perform")
    world.advance(100)
    start(ana, two, "perform")
    world.advance_to(deadline - timedelta(seconds=30))
    start(ana, one, "perform")
    world.advance(60)
    start(ana, two, "perform")
    assert [entry["ended_by"] for entry in entries(ana, one)] == ["performer", "deadline"]
    reasons = [entry["ended_by"] for entry in entries(ana, two)]
    assert reasons == ["cap", "silence", "silence", None]


class TestRetakes:
    @pytest.fixture
    def claim(self, world: World, acme: Client, ana: Person, ravi: Person) -> Json:
        """Performed for a minute, and sent back for the first of two retakes."""
        job = world.published_job(acme, retakes_max=2)
        claim = world.submitted_claim(ana, job)
        world.judge(ravi, RETAKE)
        return claim

    def again(self, world: World, ana: Person, ravi: Person, claim: Json) -> None:
        world.hand_in(ana, claim, world.take(ana, claim))
        world.judge(ravi, RETAKE)

    def test_each_has_the_cap_for_itself(
        self, world: World, ana: Person, ravi: Person, claim: Json
    ) -> None:
        short = world.work(ana, claim, "retake", 100)
        assert (short["retaking_seconds"], short["retaking_cap_seconds"]) == (100, 2_400)
        self.again(world, ana, ravi, claim)
        before = ana.get(f"/v1/claims/{claim['id']}/time")
        assert (before["retaking_seconds"], before["retaking_cap_seconds"]) == (0, 2_400)
        start(ana, claim, "retake")
        keep_on(world, ana, claim, 2_460)
        after = ana.get(f"/v1/claims/{claim['id']}/time")
        assert after["entries"][-1]["ended_by"] == "cap"
        assert (after["retaking_seconds"], after["total_seconds"]) == (2_400, 60 + 100 + 2_400)
        path = f"/v1/claims/{claim['id']}/time"
        assert ana.refused("POST", path, {"activity": "retake"}) == "409 time_cap_reached"

    def test_a_long_first_one_leaves_the_second_whole(
        self, world: World, ana: Person, ravi: Person, claim: Json
    ) -> None:
        start(ana, claim, "retake")
        keep_on(world, ana, claim, 2_460)
        path = f"/v1/claims/{claim['id']}/time"
        assert ana.refused("POST", path, {"activity": "retake"}) == "409 time_cap_reached"
        self.again(world, ana, ravi, claim)
        start(ana, claim, "retake")
        keep_on(world, ana, claim, 2_460)
        world.hand_in(ana, claim, world.take(ana, claim))
        world.judge(ravi, ACCEPT)
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["seconds"] == 60 + 2 * 2_400

    def test_preparing_is_shared_by_all_of_them(
        self, world: World, ana: Person, ravi: Person, claim: Json
    ) -> None:
        world.work(ana, claim, "prep", 300)
        self.again(world, ana, ravi, claim)
        assert world.work(ana, claim, "brief", 60)["preparing_seconds"] == 360
