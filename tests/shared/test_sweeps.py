"""One row that fails stops no other; it is named in the log, and tried again."""

import asyncio
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.recordings import service as recordings
from marketplace.shared import sweeps
from tests.world import DAY, TAKE, Client, Json, Person, World, upload

THREE_ROWS = sa.text("SELECT * FROM generate_series(1, 3)")


@pytest.fixture
def job(world: World, acme: Client) -> Json:
    return world.published_job(acme, tasks=3)


def released(world: World, performer: Person, job: Json) -> Json:
    """With 60 s on it that nobody decides about."""
    claim = world.claim(performer, job)
    world.work(performer, claim, "perform", 60)
    ended: Json = performer.post(f"/v1/claims/{claim['id']}/release", {})
    return ended


def test_each_row_is_a_transaction_of_its_own(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(session: AsyncSession, number: int) -> bool:
        await session.execute(
            sa.text(
                "INSERT INTO audit_event (subject_type, subject_id, action)"
                " VALUES ('row', :id, 'swept')"
            ),
            {"id": UUID(int=number)},
        )
        if number == 2:
            raise ZeroDivisionError
        return number == 3

    done = world.loopback.run(sweeps.each_due(world.parts.sessions, "dust", THREE_ROWS, work))
    assert done == 1
    swept = world.sql("SELECT subject_id, actor FROM audit_event WHERE action = 'swept'")
    assert [(row["subject_id"].int, row["actor"]) for row in swept] == [
        (1, "sweep:dust"),
        (3, "sweep:dust"),
    ]
    (logged,) = caplog.records
    assert logged.getMessage() == "sweep dust failed at 2; it is tried again"
    assert logged.exc_info


def test_a_row_that_another_process_is_at_is_left_to_it(world: World) -> None:
    """Nobody stands behind it: the others are done meanwhile."""
    at_work: list[int] = []

    async def two_processes() -> tuple[int, int]:
        begun, others_done = asyncio.Event(), asyncio.Event()

        async def slow(session: AsyncSession, number: int) -> bool:
            at_work.append(number)
            begun.set()
            await others_done.wait()
            return True

        async def quick(session: AsyncSession, number: int) -> bool:
            at_work.append(number)
            return True

        each_due, sessions = sweeps.each_due, world.parts.sessions
        first = asyncio.create_task(each_due(sessions, "dust", THREE_ROWS, slow))
        await begun.wait()
        second = await each_due(sessions, "dust", THREE_ROWS, quick)
        another_sweep = await each_due(sessions, "rust", THREE_ROWS, quick)
        assert another_sweep == 3
        others_done.set()
        return await first, second

    assert world.loopback.run(two_processes()) == (3, 2)
    assert at_work[:3] == [1, 2, 3]


def test_a_claim_that_cannot_be_paid_delays_no_other(
    world: World, job: Json, ana: Person, caplog: pytest.LogCaptureFixture
) -> None:
    claims = [released(world, ana, job) for _ in range(3)]
    reserve = "SELECT reservation_id FROM claim WHERE id = %s"
    (emptied,) = world.sql(reserve, claims[0]["id"])
    empty = (
        "UPDATE account_balance SET balance_minor = 0"
        " WHERE account_id = account_id('job_reserve', %s, 'USD')"
    )
    world.owner_sql(empty, emptied["reservation_id"])
    world.advance(3 * DAY + 1)
    assert world.sweep("pay") == 2
    assert f"sweep pay failed at {claims[0]['id']}" in caplog.text
    assert ana.refused("GET", f"/v1/claims/{claims[0]['id']}/pay") == "404 not_found"
    for claim in claims[1:]:
        assert ana.get(f"/v1/claims/{claim['id']}/pay")["pay_minor"] == 123


def test_a_take_whose_check_breaks_off_delays_no_other(
    world: World,
    job: Json,
    ana: Person,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    claim = world.claim(ana, job)
    path = f"/v1/claims/{claim['id']}/recordings"
    broken, sound = (upload(ana, path, TAKE.read_bytes()) for _ in range(2))
    open_for_check = world.parts.storage.open_for_check

    def unreachable(key: str) -> object:
        if broken["id"] in key:
            raise ConnectionError
        return open_for_check(key)

    monkeypatch.setattr(world.parts.storage, "open_for_check", unreachable)
    assert world.sweep("recordings") == 1
    assert f"sweep recordings failed at {broken['id']}" in caplog.text
    assert ana.get(f"/v1/recordings/{sound['id']}")["state"] == "passed"
    monkeypatch.undo()
    world.advance(recordings.CHECK_LEASE.total_seconds())
    world.sweep("recordings")
    assert ana.get(f"/v1/recordings/{broken['id']}")["state"] == "passed"
