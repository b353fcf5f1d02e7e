"""Every move names who made it; a move by nobody fails loudly."""

from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace import tables
from marketplace.performers import service as performers
from marketplace.performers.models import PerformerState
from tests.world import REFUSE, Client, Person, World


def moves(world: World, subject: str) -> list[tuple[str | None, str, str]]:
    found = world.sql(
        "SELECT from_state, to_state, actor FROM audit_event"
        " WHERE subject_type = %s AND action = 'moved' ORDER BY id",
        subject,
    )
    return [(row["from_state"], row["to_state"], row["actor"]) for row in found]


def test_the_story_of_a_claim(
    world: World, acme: Client, ana: Person, ravi: Person, second_reviewer: Person
) -> None:
    world.submitted_claim(ana, world.published_job(acme))
    world.judge(ravi, REFUSE)
    world.judge(second_reviewer, REFUSE)
    assert moves(world, "claim") == [
        (None, "active", ana.id),
        ("active", "in_session", ana.id),
        ("in_session", "submitted", ana.id),
        ("submitted", "settled", second_reviewer.id),
    ]
    assert moves(world, "submission") == [
        (None, "checking", ana.id),
        ("checking", "in_review", "sweep:reviews"),
        ("in_review", "refused", second_reviewer.id),
    ]
    (key,) = acme.member.get("/v1/api-keys")["items"]
    assert [actor for _, _, actor in moves(world, "job")] == [key["id"], key["id"]]


def test_requests_leave_their_id(world: World, acme: Client, ana: Person) -> None:
    job = world.published_job(acme)
    answer = ana.ask("POST", "/v1/claims", {"role_id": world.roles(job)[0]})
    found = world.value("SELECT request_id FROM audit_event WHERE subject_type = 'claim'")
    assert found == answer.headers["x-request-id"]


def test_forgetting_the_actor_fails_loudly(world: World, ana: Person) -> None:
    async def forgotten(session: AsyncSession) -> None:
        await performers.change_state(
            session, person_id=UUID(ana.id), to=PerformerState.SUSPENDED, reason="nobody said so"
        )
        await session.commit()

    async def run() -> None:
        async with world.parts.sessions() as session:
            await forgotten(session)

    with pytest.raises(sa.exc.IntegrityError, match="actor"):
        world.loopback.run(run())
    assert ana.get("/v1/performer")["state"] == "vetted"


def test_an_actor_lasts_for_one_transaction(world: World, ana: Person) -> None:
    async def run() -> str | None:
        async with world.parts.sessions() as session:
            await session.execute(sa.text("SELECT set_config('marketplace.actor', 'ana', true)"))
            await session.commit()
            actor: str | None = await session.scalar(sa.text("SELECT acting()"))
            return actor

    assert world.loopback.run(run()) is None


def test_the_database_holds_the_same_moves_as_the_models(world: World) -> None:
    rows = world.sql("SELECT subject, from_state, to_state FROM allowed_move")
    held = {(row["subject"], row["from_state"], row["to_state"]) for row in rows}
    written = {
        (subject, before.value if before else None, after.value)
        for subject, table in tables.MOVES.items()
        for before, allowed in table.items()
        for after in allowed
    }
    assert held == written


@pytest.mark.parametrize("subject", sorted(tables.MOVES))
def test_every_forbidden_move_is_refused_by_its_function(subject: str) -> None:
    from types import SimpleNamespace

    from marketplace.shared.problems import MoveNotAllowed
    from marketplace.shared.states import move

    table = tables.MOVES[subject]
    states = {state for before, after in table.items() for state in (before, *after) if state}
    for before in states:
        for after in states:
            row = SimpleNamespace(state=before, state_reason=None)
            if after in table.get(before, frozenset()):
                move(row, after, table, reason="allowed")
                assert (row.state, row.state_reason) == (after, "allowed")
            else:
                with pytest.raises(MoveNotAllowed):
                    move(row, after, table)
                assert row.state is before
