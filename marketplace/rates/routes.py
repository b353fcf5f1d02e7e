from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.accounts.models import Role, Scope
from marketplace.accounts.principals import (
    Authenticated,
    Operator,
    Principal,
    person_or_key_with,
)
from marketplace.rates import service
from marketplace.rates.models import RateLineage
from marketplace.rates.schemas import (
    LineageAnswer,
    MinimumRateAnswer,
    NewMinimumRate,
    RateAnswer,
)
from marketplace.shared import clock
from marketplace.shared.money import Currency
from marketplace.shared.pagination import PageQuery
from marketplace.shared.problems import NotFound, documented
from marketplace.shared.requests import Session, TransactionalRoute
from marketplace.shared.schemas import Page, Time

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["rates"])

RateReader = Annotated[Principal, Depends(person_or_key_with(Scope.JOBS_READ))]


class RateQuery(PageQuery):
    as_of: Annotated[Time | None, Field(description="The history as announced by then")] = None


async def visible_lineage(
    session: AsyncSession, lineage_id: UUID, principal: Principal
) -> RateLineage:
    """Rate history is public to everyone who works here; a client sees its own lineages."""
    query = select(RateLineage).where(RateLineage.id == lineage_id)
    if not principal.roles & set(Role):
        query = query.where(RateLineage.client_id == principal.client_id)
    lineage = (await session.exec(query)).first()
    if lineage is None:
        raise NotFound
    return lineage


@router.get("/rate-lineages/{lineage_id}", responses=documented(NotFound))
async def read_rate_lineage(
    lineage_id: UUID, session: Session, principal: RateReader
) -> LineageAnswer:
    """What shares one rate history, and why if it was separated."""
    lineage = await visible_lineage(session, lineage_id, principal)
    return LineageAnswer(
        **lineage.model_dump(exclude={"languages"}), languages=lineage.languages.split(",")
    )


@router.get("/rate-lineages/{lineage_id}/rates", responses=documented(NotFound))
async def list_rates(
    lineage_id: UUID,
    session: Session,
    principal: RateReader,
    query: Annotated[RateQuery, Query()],
) -> Page[RateAnswer]:
    """The whole rate history, the last to take effect first; nothing is ever taken out of it."""
    lineage = await visible_lineage(session, lineage_id, principal)
    found, next_cursor = await service.history(session, lineage.id, query, announced_by=query.as_of)
    return Page(items=found, next_cursor=next_cursor)


@router.get("/rate-lineages/{lineage_id}/rate", responses=documented(NotFound))
async def read_rate_at(
    lineage_id: UUID,
    session: Session,
    principal: RateReader,
    at: Annotated[Time | None, Query(description="Null is now")] = None,
) -> RateAnswer:
    """The rate in force at a moment."""
    lineage = await visible_lineage(session, lineage_id, principal)
    moment: datetime = at or await clock.now(session)
    rate = await service.rate_at(session, lineage.id, moment)
    if rate is None:
        raise NotFound("No rate was in force at that moment.")
    return await service.described(session, rate)


@router.post("/minimum-rates", status_code=201)
async def set_minimum_rate(
    body: NewMinimumRate, session: Session, operator: Operator
) -> MinimumRateAnswer:
    """Set the lowest hourly rate a job may be published at, from now on."""
    minimum = await service.set_minimum(
        session,
        currency=body.currency,
        rate_minor_per_hour=body.rate_minor_per_hour,
        reason=body.reason,
        set_by=operator.person,
    )
    return MinimumRateAnswer.model_validate(minimum)


@router.get("/minimum-rates/{currency}", responses=documented(NotFound))
async def read_minimum_rate(
    currency: Currency, session: Session, principal: Authenticated
) -> MinimumRateAnswer:
    """The minimum hourly rate of a currency, if one is set."""
    minimum = await service.minimum_rate(session, currency)
    if minimum is None:
        raise NotFound
    return MinimumRateAnswer.model_validate(minimum)
