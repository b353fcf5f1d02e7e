"""The HTTP application: every domain's routes, one set of error answers, one transaction rule."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from marketplace import __version__
from marketplace.accounts.routes import router as accounts
from marketplace.bank.routes import router as bank
from marketplace.claims.routes import router as claims
from marketplace.consents.routes import router as consents
from marketplace.corrections.routes import router as corrections
from marketplace.deliveries.routes import router as deliveries
from marketplace.exceptions.charge_routes import router as client_charges
from marketplace.exceptions.routes import router as exceptions
from marketplace.funding.dispute_routes import router as disputes
from marketplace.funding.refund_routes import router as refunds
from marketplace.funding.routes import router as funding
from marketplace.health import router as health
from marketplace.jobs.routes import router as jobs
from marketplace.openapi import describe
from marketplace.payouts.reversal_routes import router as reversals
from marketplace.payouts.routes import router as payouts
from marketplace.performers.routes import router as performers
from marketplace.periods.routes import router as periods
from marketplace.rates.routes import router as rates
from marketplace.recordings.routes import router as recordings
from marketplace.recordings.storage import open_storage
from marketplace.reports.explanations import router as explanations
from marketplace.reports.routes import router as reports
from marketplace.reviews.routes import router as reviews
from marketplace.scheduler import Parts, ticking
from marketplace.shared import problems
from marketplace.shared.database import connect, session_factory
from marketplace.shared.observed import Observed
from marketplace.shared.settings import Settings
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.pace import Pace
from marketplace.stripe_api.polling import STRIPE_ERRORS
from marketplace.stripe_api.routes import answer_stripe_error
from marketplace.stripe_api.routes import router as stripe_api
from marketplace.webhooks.routes import router as webhooks

DESCRIPTION = """
ML teams order emotion recordings; vetted improv performers claim the work, record, are reviewed,
and are paid every approved second at the hourly rate that was locked when they claimed.

Money is in integer minor units (`amount_minor`, `rate_minor_per_hour`), times are RFC 3339 in UTC,
errors are RFC 9457 problem details with a stable `code`. Send `Idempotency-Key` with every POST
that must not happen twice.
"""
# Uploads have a limit of their own.
LARGEST_BODY_BYTES = 2 * 1024 * 1024
ROUTERS = (
    health,
    accounts,
    performers,
    funding,
    refunds,
    disputes,
    rates,
    jobs,
    claims,
    recordings,
    consents,
    reviews,
    deliveries,
    payouts,
    reversals,
    corrections,
    bank,
    reports,
    explanations,
    exceptions,
    client_charges,
    periods,
    webhooks,
    stripe_api,
)


def create_app(settings: Settings, *, sweeps: bool = True) -> FastAPI:
    """`sweeps` lets this process do background work, too; any number of processes may."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with parts_of(settings) as parts:
            app.state.sessions = parts.sessions
            app.state.gateway = parts.gateway
            app.state.storage = parts.storage
            async with ticking(parts, enabled=sweeps):
                yield

    app: FastAPI = FastAPIOffline(
        title="Marketplace",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url="/docs" if settings.docs_enabled else None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        max_body_size=LARGEST_BODY_BYTES,
    )
    app.state.settings = settings
    for router in ROUTERS:
        app.include_router(router)
    _add_error_answers(app)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["ETag", "X-Request-Id", "Idempotent-Replayed", "Retry-After"],
        )
    # Around all else: what is added last comes first.
    app.add_middleware(Observed)
    return app


@asynccontextmanager
async def parts_of(
    settings: Settings, *, engine: AsyncEngine | None = None
) -> AsyncIterator[Parts]:
    """The connections that the application and its sweeps work with, or those of `engine`."""
    engine = engine or connect(settings.database_url, settings.database_pool_size)
    gateway = StripeGateway(
        api_key=settings.stripe_api_key.get_secret_value(),
        api_base=settings.stripe_api_base,
        pace=Pace(settings.stripe_requests_per_second),
    )
    try:
        yield Parts(
            settings=settings,
            sessions=session_factory(engine),
            gateway=gateway,
            storage=open_storage(settings.storage_url),
        )
    finally:
        await gateway.aclose()
        await engine.dispose()


def _operation_id(route: APIRoute) -> str:
    return route.name


def _add_error_answers(app: FastAPI) -> None:
    app.add_exception_handler(problems.Problem, problems.answer_problem)
    app.add_exception_handler(RequestValidationError, problems.answer_validation_error)
    app.add_exception_handler(HTTPException, problems.answer_http_exception)
    app.add_exception_handler(ClientDisconnect, problems.answer_nobody)
    for error in STRIPE_ERRORS:
        app.add_exception_handler(error, answer_stripe_error)
    app.add_exception_handler(Exception, problems.answer_unexpected)
