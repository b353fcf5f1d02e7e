"""For those who keep it running: does it answer, does the database, and what does it count."""

import logging
import secrets
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from marketplace.reports import gauges
from marketplace.shared.problems import NotFound, TryAgain, Unauthorized
from marketplace.shared.schemas import Answer
from marketplace.shared.settings import Settings

router = APIRouter(tags=["health"])

DOES_NOT_ANSWER = (sa.exc.DBAPIError, sa.exc.TimeoutError)

log = logging.getLogger(__name__)


class Health(Answer):
    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="The process answers")
async def read_health() -> Health:
    return Health()


@router.get("/readyz", summary="The database answers, too")
async def read_readiness(request: Request) -> Health:
    try:
        async with request.app.state.sessions() as session:
            await session.execute(sa.text("SELECT 1"))
    except DOES_NOT_ANSWER as error:
        raise TryAgain("The database does not answer.") from error
    return Health()


@router.get("/metrics", include_in_schema=False)
async def read_metrics(
    request: Request, authorization: Annotated[str | None, Header()] = None
) -> Response:
    """Prometheus' text format: this process's counters, and the database's queues and sums, which are
    missing while it does not answer.
    """
    settings: Settings = request.app.state.settings
    if settings.metrics_token is None:
        raise NotFound
    expected = f"Bearer {settings.metrics_token.get_secret_value()}"
    if not secrets.compare_digest((authorization or "").encode(), expected.encode()):
        raise Unauthorized
    found: Sequence[Metric] = ()
    try:
        async with request.app.state.sessions() as session:
            found = await gauges.look(session)
    except DOES_NOT_ANSWER:
        log.warning("the database does not answer: its metrics are missing", exc_info=True)
    return Response(generate_latest(_Told(found)), media_type=CONTENT_TYPE_LATEST)


class _Told(CollectorRegistry):
    """The process's own registry, and what was just looked up."""

    def __init__(self, found: Sequence[Metric]) -> None:
        super().__init__()
        self._found = found

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()
        yield from self._found
