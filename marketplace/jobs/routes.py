from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlmodel import col, select

from marketplace.accounts.models import Scope
from marketplace.accounts.principals import Operator, Performer, Principal, client_with
from marketplace.funding.reserves import WalletTooLow
from marketplace.jobs import board, publishing, service
from marketplace.jobs.models import Job, JobState, Role, RoleState, Task
from marketplace.jobs.schemas import (
    BoardItem,
    JobAnswer,
    JobSummary,
    NewJob,
    Publication,
    Quote,
    RoleAnswer,
    StateReason,
)
from marketplace.rates import service as rates
from marketplace.rates.models import RateLineage
from marketplace.rates.schemas import NewRate, RateAnswer
from marketplace.shared import clock
from marketplace.shared.etags import SeenVersion, VersionMissing, VersionOutdated, set_etag
from marketplace.shared.pagination import PageQuery, newest_first
from marketplace.shared.problems import MoveNotAllowed, NotFound, documented
from marketplace.shared.requests import KEY_REQUIRED, Session, TransactionalRoute
from marketplace.shared.schemas import Body, Page, Reason

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["jobs"])

JobReader = Annotated[Principal, Depends(client_with(Scope.JOBS_READ))]
JobWriter = Annotated[Principal, Depends(client_with(Scope.JOBS_WRITE))]


class JobQuery(PageQuery):
    state: JobState | None = None


class RoleQuery(PageQuery):
    state: RoleState | None = None


class Separation(Body):
    reason: Reason


def _platform_fee(request: Request) -> int:
    fee: int = request.app.state.settings.platform_fee_basis_points
    return fee


PlatformFee = Annotated[int, Depends(_platform_fee)]


@router.post("/jobs", status_code=201)
async def create_job(
    body: NewJob, session: Session, client: JobWriter, response: Response
) -> JobAnswer:
    """Draft a job. Nothing is reserved and nobody sees it until you publish it."""
    job = await service.draft(session, client_id=client.client, wanted=body)
    return await _answer(session, job, response)


@router.get("/jobs")
async def list_jobs(
    session: Session, client: JobReader, query: Annotated[JobQuery, Query()]
) -> Page[JobSummary]:
    """Your jobs, newest first."""
    wanted = select(Job).where(Job.client_id == client.client)
    if query.state is not None:
        wanted = wanted.where(Job.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(Job.id), query)
    items = [JobSummary.model_validate(row.Job) for row in found]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/jobs/{job_id}", responses=documented(NotFound))
async def read_job(
    job_id: UUID, session: Session, client: JobReader, response: Response
) -> JobAnswer:
    """One job, the rate that claims made now would lock, and how its roles stand."""
    return await _answer(session, await service.own_job(session, job_id, client.client), response)


@router.put(
    "/jobs/{job_id}",
    responses=documented(NotFound, MoveNotAllowed, VersionMissing, VersionOutdated),
)
async def edit_job(
    job_id: UUID,
    body: NewJob,
    session: Session,
    client: JobWriter,
    seen: SeenVersion,
    response: Response,
) -> JobAnswer:
    """Replace a draft; send the ETag you read as If-Match."""
    job = await service.own_job(session, job_id, client.client, lock=True)
    job = await service.edit_draft(session, job, wanted=body, seen=seen)
    return await _answer(session, job, response)


@router.get("/jobs/{job_id}/quote", responses=documented(NotFound))
async def quote_job(
    job_id: UUID, session: Session, client: JobReader, platform_fee: PlatformFee
) -> Quote:
    """What the roles not yet funded would cost: expected, and the worst case that is reserved."""
    job = await service.own_job(session, job_id, client.client)
    return await publishing.quote(session, job, platform_fee=platform_fee)


@router.post(
    "/jobs/{job_id}/publish",
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        MoveNotAllowed,
        publishing.NothingToPublish,
        publishing.ScenesNotRunYet,
        WalletTooLow,
        rates.RateCutNeedsNotice,
        rates.RateBelowMinimum,
        rates.TooManyRatesAhead,
    ),
)
async def publish_job(
    job_id: UUID,
    body: Publication,
    session: Session,
    client: JobWriter,
    platform_fee: PlatformFee,
    response: Response,
) -> JobAnswer:
    """Reserve the worst case of all roles that are not funded yet, or of so many, and open them."""
    job = await service.own_job(session, job_id, client.client)
    job = await publishing.publish(
        session, job, roles=body.roles, platform_fee=platform_fee, actor=client.id
    )
    return await _answer(session, job, response)


@router.post("/jobs/{job_id}/pause", responses=documented(NotFound, MoveNotAllowed))
async def pause_job(
    job_id: UUID, body: StateReason, session: Session, client: JobWriter, response: Response
) -> JobAnswer:
    """Take no new claims for now; live claims finish."""
    job = await service.own_job(session, job_id, client.client)
    return await _answer(session, await service.pause(session, job, reason=body.reason), response)


@router.post("/jobs/{job_id}/resume", responses=documented(NotFound, MoveNotAllowed))
async def resume_job(
    job_id: UUID, session: Session, client: JobWriter, response: Response
) -> JobAnswer:
    """Put a paused job back on the board."""
    job = await service.own_job(session, job_id, client.client)
    return await _answer(session, await service.resume(session, job), response)


@router.post("/jobs/{job_id}/close", responses=documented(NotFound, MoveNotAllowed))
async def close_job(
    job_id: UUID, body: StateReason, session: Session, client: JobWriter, response: Response
) -> JobAnswer:
    """Take no new claims for good; open roles' reserves return at once, live claims finish."""
    job = await service.own_job(session, job_id, client.client)
    return await _answer(session, await service.close(session, job, reason=body.reason), response)


@router.post("/jobs/{job_id}/cancel", responses=documented(NotFound, MoveNotAllowed))
async def cancel_job(
    job_id: UUID, body: StateReason, session: Session, client: JobWriter, response: Response
) -> JobAnswer:
    """Give a draft up."""
    job = await service.own_job(session, job_id, client.client)
    return await _answer(session, await service.cancel(session, job, reason=body.reason), response)


@router.get("/jobs/{job_id}/roles", responses=documented(NotFound))
async def list_roles(
    job_id: UUID, session: Session, client: JobReader, query: Annotated[RoleQuery, Query()]
) -> Page[RoleAnswer]:
    """The job's tasks, role by role, newest first, with their states."""
    job = await service.own_job(session, job_id, client.client)
    wanted = (
        select(Role, Task.scenario, Task.number.label("task_number"))  # type: ignore[attr-defined]
        .join(Task, col(Task.id) == Role.task_id)
        .where(Role.job_id == job.id)
    )
    if query.state is not None:
        wanted = wanted.where(Role.state == query.state)
    found, next_cursor = await newest_first(session, wanted, col(Role.id), query)
    items = [
        RoleAnswer(
            **row.Role.model_dump(exclude={"reservation_id"}),
            scenario=row.scenario,
            task_number=row.task_number,
        )
        for row in found
    ]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/board", response_model=Page[BoardItem])
async def read_board(
    session: Session, performer: Performer, query: Annotated[board.BoardQuery, Query()]
) -> Response:
    """The roles you may claim now, best fit first, each with its rate, the rate's history, and the
    day by which it would be paid.
    """
    found = await board.page_as_json(session, performer_id=performer.person, query=query)
    return Response(found, media_type="application/json")


@router.post(
    "/rate-lineages/{lineage_id}/rates",
    status_code=201,
    dependencies=[KEY_REQUIRED],
    responses=documented(
        NotFound,
        WalletTooLow,
        rates.RateCutNeedsNotice,
        rates.RateBackdated,
        rates.RateBelowMinimum,
        rates.TooManyRatesAhead,
    ),
)
async def announce_rate(
    lineage_id: UUID, body: NewRate, session: Session, client: JobWriter
) -> RateAnswer:
    """Announce a new hourly rate for your jobs of a kind. It prices only claims made after it.

    A rise reserves its difference for every open role at once, or is refused; a cut needs 14 days.
    """
    lineage = (
        await session.exec(
            select(RateLineage).where(
                RateLineage.id == lineage_id, RateLineage.client_id == client.client
            )
        )
    ).first()
    if lineage is None:
        raise NotFound
    rate = await publishing.announce_rate(
        session,
        lineage=lineage,
        rate_minor_per_hour=body.rate_minor_per_hour,
        reason=body.reason,
        actor=client.id,
        effective_from=body.effective_from,
    )
    return await rates.described(session, rate)


@router.post(
    "/jobs/{job_id}/separate-lineage",
    responses=documented(NotFound, MoveNotAllowed),
)
async def separate_lineage(
    job_id: UUID, body: Separation, session: Session, operator: Operator, response: Response
) -> JobAnswer:
    """Record why a draft is not of the same kind as its client's other jobs; the reason is public."""
    job = await service.separate_lineage(session, job_id, reason=body.reason)
    return await _answer(session, job, response)


async def _answer(session: Session, job: Job, response: Response) -> JobAnswer:
    set_etag(response, job.version)
    rate = await rates.rate_at(session, job.lineage_id, await clock.now(session))
    return JobAnswer(
        **job.model_dump(),
        rate=await rates.described(session, rate) if rate else None,
        roles=await service.role_counts(session, job.id),
    )
