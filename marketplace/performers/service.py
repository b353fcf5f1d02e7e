"""Applying, profiles, vetting."""

from uuid import UUID

import sqlalchemy as sa
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.performers.models import PERFORMER_MOVES, Performer, PerformerState
from marketplace.performers.schemas import Profile
from marketplace.shared import audit
from marketplace.shared.etags import require_seen
from marketplace.shared.problems import Conflict, NotFound
from marketplace.shared.states import move


class AlreadyApplied(Conflict):
    """You have applied before; edit your profile instead."""

    code = "already_applied"


async def apply(session: AsyncSession, *, person_id: UUID, profile: Profile) -> Performer:
    performer = Performer(person_id=person_id, state=PerformerState.APPLIED, **profile.model_dump())
    session.add(performer)
    try:
        await session.flush()
    except sa.exc.IntegrityError as error:
        raise AlreadyApplied from error
    await session.refresh(performer)
    return performer


async def find(session: AsyncSession, person_id: UUID, *, lock: bool = False) -> Performer:
    query = select(Performer).where(Performer.person_id == person_id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    performer = (await session.exec(query)).first()
    if performer is None:
        raise NotFound("There is no such performer; apply first.")
    return performer


async def edit_profile(
    session: AsyncSession, *, person_id: UUID, profile: Profile, seen: str
) -> Performer:
    performer = await find(session, person_id, lock=True)
    require_seen(seen, performer.version)
    for name, value in profile.model_dump().items():
        setattr(performer, name, value)
    performer.version += 1
    await session.flush()
    return performer


async def change_state(
    session: AsyncSession, *, person_id: UUID, to: PerformerState, reason: str
) -> Performer:
    """Decline, suspend or vet again, always with a reason that the performer can read."""
    performer = await find(session, person_id, lock=True)
    move(performer, to, PERFORMER_MOVES, reason=reason)
    performer.version += 1
    await session.flush()
    return performer


async def limit_claims(
    session: AsyncSession, *, person_id: UUID, claims_limit: int, reason: str
) -> Performer:
    """How many claims the performer may have in hand from now on; those there are stay."""
    performer = await find(session, person_id, lock=True)
    await audit.record(
        session,
        subject=("performer", person_id),
        action="claims_limited",
        reason=reason,
        detail={"from": performer.claims_limit, "to": claims_limit},
    )
    performer.claims_limit = claims_limit
    performer.version += 1
    await session.flush()
    return performer
