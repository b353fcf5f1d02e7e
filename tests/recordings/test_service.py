"""A take's bytes go only with a verdict that counts: not when another check or the upload won, and
not when our own check broke off.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from marketplace.recordings import checks, service
from marketplace.recordings.checks import CHECKER_FAILED, TIMED_OUT, Limits, Unreadable
from tests.world import ACCEPT, DAY, TAKE, Client, Json, Person, World, declare, upload

BYTES = TAKE.read_bytes()
KILLED = "    os.kill(os.getpid(), 9)"


@pytest.fixture
def takes(world: World, acme: Client, ana: Person) -> str:
    """Where Ana declares her takes."""
    claim = world.claim(ana, world.published_job(acme))
    return f"/v1/claims/{claim['id']}/recordings"


def bytes_of(world: World, recording: Json) -> bytes:
    return Path(world.settings.storage_url, "recordings", recording["id"]).read_bytes()


def wait_until_passed(world: World) -> None:
    while world.value("SELECT state FROM recording") != "passed":
        time.sleep(0.05)


def test_a_slow_checker_leaves_a_passed_take_alone(
    world: World, ana: Person, takes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = upload(ana, takes, BYTES)

    async def overtaken(*_: Any, **__: Any) -> Unreadable:
        """So slow that its lease ran out and another process passed the take."""
        monkeypatch.setattr(service, "measure", checks.measure)
        await asyncio.to_thread(world.advance, service.CHECK_LEASE.total_seconds())
        await service.check_due(world.parts.sessions, world.parts.storage)
        await asyncio.to_thread(wait_until_passed, world)
        return Unreadable(TIMED_OUT.reason_code, TIMED_OUT.message)

    monkeypatch.setattr(service, "measure", overtaken)
    world.sweep("recordings")
    assert ana.get(f"/v1/recordings/{recording['id']}")["state"] == "passed"
    assert bytes_of(world, recording) == BYTES


def test_a_check_is_over_before_another_may_try() -> None:
    longest_seconds = service.CHECKS_AT_ONCE * checks.Limits.wall_seconds
    assert service.CHECK_LEASE.total_seconds() > longest_seconds


def check(ana: Person, recording: Json) -> Json:
    found: Json = ana.get(f"/v1/recordings/{recording['id']}")
    return found


def due_at(world: World) -> datetime:
    stamp: datetime = world.value("SELECT due_at FROM recording")
    return stamp


def test_a_take_whose_worker_was_killed_is_kept_and_checked_again(
    world: World, ana: Person, takes: str, take_over: Callable[[str], None]
) -> None:
    recording = upload(ana, takes, BYTES)
    take_over(KILLED)
    before = world.now
    assert world.sweep("recordings") == 1
    waiting = check(ana, recording)
    assert (waiting["state"], waiting["state_reason"]) == ("checking", CHECKER_FAILED.message)
    assert bytes_of(world, recording) == BYTES
    assert before < due_at(world) - service.FIRST_RETRY_AFTER < world.now
    assert world.sweep("recordings") == 0
    take_over("    main()")
    world.advance_to(due_at(world) + timedelta(seconds=1))
    world.sweep("recordings")
    passed = check(ana, recording)
    assert (passed["state"], passed["state_reason"]) == ("passed", None)
    assert bytes_of(world, recording) == BYTES


def tried_for_a_day(world: World) -> timedelta:
    """Sweep whenever a check is due until none is; answers how long that took."""
    began = world.now
    while due := world.value("SELECT due_at FROM recording"):
        world.advance_to(max(due, world.now) + timedelta(seconds=1))
        assert world.sweep("recordings") == 1
    return world.now - began


def hand_in(ana: Person, takes: str, recording: Json) -> str:
    """Answers where its submission is."""
    path = takes.replace("recordings", "submissions")
    ana.post(takes.replace("recordings", "time"), {"activity": "perform"})
    handed_in = {
        "recording_ids": [recording["id"]],
        "self_labels": {"emotion": "sadness", "intensity": "low"},
    }
    assert ana.post(path, handed_in)["state"] == "checking"
    return path


def test_a_take_that_we_cannot_measure_is_judged_by_ear(
    world: World, ana: Person, ravi: Person, takes: str, take_over: Callable[[str], None]
) -> None:
    recording = upload(ana, takes, BYTES)
    submissions = hand_in(ana, takes, recording)
    take_over(KILLED)
    assert timedelta(days=1) < tried_for_a_day(world) < timedelta(days=1.2)
    found = check(ana, recording)
    assert (found["state"], found["state_reason"]) == ("look", service.UNMEASURED)
    assert found["report"] == {"reason_code": "checker_failed", "message": service.UNMEASURED}
    assert bytes_of(world, recording) == BYTES
    world.sweep("reviews")
    review = ravi.post("/v1/reviews/next")
    assert review["recordings"][0]["report"]["message"] == service.UNMEASURED
    heard = f"/v1/reviews/{review['id']}/recordings/{recording['id']}/content"
    assert ravi.ask("GET", heard).content == BYTES
    ravi.post(f"/v1/reviews/{review['id']}/verdict", ACCEPT)
    assert ana.get(submissions)["items"][0]["state"] == "accepted"


def test_what_nobody_measured_or_heard_is_not_accepted_but_paid(
    world: World, ana: Person, takes: str, take_over: Callable[[str], None]
) -> None:
    recording = upload(ana, takes, BYTES)
    submissions = hand_in(ana, takes, recording)
    take_over(KILLED)
    tried_for_a_day(world)
    world.sweep("reviews")
    world.advance(3 * DAY + 1)
    world.sweep("accept")
    (refused,) = ana.get(submissions)["items"]
    assert refused["state"] == "refused"
    assert "judged it by ear" in refused["state_reason"]
    assert ana.get(takes.replace("recordings", "pay"))["outcome"] == "pay"


def test_a_check_that_always_hangs_is_not_tried_for_ever(
    world: World,
    ana: Person,
    takes: str,
    take_over: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recording = upload(ana, takes, BYTES)
    take_over("    import time; time.sleep(60)")

    async def impatient(path: Path, *, limits: Limits) -> Any:
        return await checks.measure(path, limits=replace(limits, wall_seconds=0.2))

    monkeypatch.setattr(service, "measure", impatient)
    tried_for_a_day(world)
    found = check(ana, recording)
    assert (found["state"], found["report"]["reason_code"]) == ("look", "timed_out")
    assert world.value("SELECT check_tries FROM recording") == service.MOST_TRIES
    assert bytes_of(world, recording) == BYTES
    assert f"recording {recording['id']} was checked 11 times in vain" in caplog.text


def test_what_is_unreadable_is_deleted_with_its_verdict(
    world: World, ana: Person, takes: str
) -> None:
    recording = upload(ana, takes, b"<script>alert(1)</script>" * 99)
    world.sweep("recordings")
    assert ana.get(f"/v1/recordings/{recording['id']}")["state"] == "unreadable"
    with pytest.raises(FileNotFoundError):
        bytes_of(world, recording)
    again = ana.refused("PUT", recording["upload_path"], content=BYTES)
    assert again == "409 recording_given_up"


def test_an_upload_that_is_given_up_before_its_last_byte_is_refused(
    world: World, ana: Person, takes: str
) -> None:
    recording = declare(ana, takes, BYTES)

    def slowly() -> Iterator[bytes]:
        yield BYTES[:1_000]
        world.advance(DAY)
        world.sweep("recordings")
        yield BYTES[1_000:]

    answer = world.http.put(
        world.url + recording["upload_path"],
        content=slowly(),
        headers={"Authorization": f"Bearer {ana.token}"},
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "recording_given_up")
    with pytest.raises(FileNotFoundError):
        bytes_of(world, recording)


def test_an_upload_that_was_answered_is_not_given_up(
    world: World, ana: Person, takes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = declare(ana, takes, BYTES)
    world.advance(DAY)
    conclude = service._conclude  # noqa: SLF001 - the moment between looking and judging

    async def after_the_upload(*arguments: Any) -> None:
        monkeypatch.setattr(service, "_conclude", conclude)
        sent = await asyncio.to_thread(ana.ask, "PUT", recording["upload_path"], content=BYTES)
        assert sent.status_code == 200
        await conclude(*arguments)

    monkeypatch.setattr(service, "_conclude", after_the_upload)
    world.sweep("recordings")
    assert bytes_of(world, recording) == BYTES


def test_ten_recordings_may_be_on_their_way(ana: Person, takes: str) -> None:
    wanted = {"size_bytes": 5, "sha256": "0" * 64}
    with ThreadPoolExecutor(5) as devices:
        statuses = devices.map(lambda _: ana.ask("POST", takes, wanted).status_code, range(15))
    assert Counter(statuses) == {201: 10, 409: 5}
    assert ana.refused("POST", takes, wanted) == "409 too_many_uploads"
