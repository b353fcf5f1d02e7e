from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse

from marketplace.shared import clock
from marketplace.shared.problems import BadRequest, Conflict, TryAgain, documented
from marketplace.shared.requests import Session, TransactionalRoute
from marketplace.shared.settings import Settings
from marketplace.stripe_api import inbox
from marketplace.stripe_api.gateway import StripeGateway, verify_webhook
from marketplace.stripe_api.gateway_errors import StripeRefused, WebhookRejected

router = APIRouter(prefix="/v1", route_class=TransactionalRoute, tags=["stripe"])


class Endpoint(StrEnum):
    PLATFORM = "platform"
    CONNECT = "connect"


class WebhookNotStripes(BadRequest):
    """This webhook is not provably from Stripe, or not recent; it was not stored."""

    code = "webhook_not_stripes"


class RefusedByStripe(Conflict):
    """Stripe refused this; its own words say why."""

    code = "refused_by_stripe"


class StripeUnavailable(TryAgain):
    """Stripe did not answer in time; repeat the request with the same key."""

    code = "stripe_unavailable"


async def answer_stripe_error(_request: Request, error: Exception) -> JSONResponse:
    """For routes that ask Stripe. What was committed before goes on with the next try."""
    if isinstance(error, StripeRefused):
        return RefusedByStripe(error.message, stripe_code=error.code).answer()
    return StripeUnavailable().answer()


def gateway_of(request: Request) -> StripeGateway:
    gateway = request.app.state.gateway
    assert isinstance(gateway, StripeGateway)
    return gateway


Gateway = Annotated[StripeGateway, Depends(gateway_of)]


@router.post(
    "/stripe/webhooks/{endpoint}",
    status_code=204,
    responses=documented(WebhookNotStripes, inbox.EventUnreadable),
)
async def receive_stripe_event(
    endpoint: Endpoint,
    request: Request,
    session: Session,
    stripe_signature: Annotated[str | None, Header()] = None,
) -> None:
    """Store an event from Stripe. It is applied later, once, from the object fetched anew."""
    settings: Settings = request.app.state.settings
    secret = (
        settings.stripe_webhook_secret
        if endpoint is Endpoint.PLATFORM
        else settings.stripe_connect_webhook_secret
    )
    try:
        event = verify_webhook(
            await request.body(),
            stripe_signature,
            secret=secret.get_secret_value(),
            now=await clock.now(session),
        )
    except WebhookRejected as error:
        raise WebhookNotStripes(str(error)) from error
    await inbox.store(session, event)
