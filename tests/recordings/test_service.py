"""A take's bytes go only with a verdict that counts: not when another check or the upload won."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from marketplace.recordings import checks, service
from marketplace.recordings.checks import TIMED_OUT, Unreadable
from tests.world import DAY, TAKE, Client, Json, Person, World, declare, upload

BYTES = TAKE.read_bytes()


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
    longest_seconds = service.MOST_TRIES * checks.Limits.wall_seconds
    assert service.CHECK_LEASE.total_seconds() > longest_seconds


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
