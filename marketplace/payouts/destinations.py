"""Whether a payout's destination may be paid now: looked at again before every new attempt."""

from datetime import timedelta

import sqlalchemy as sa
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts.models import Payout
from marketplace.performers.models import PayoutAccount, TransfersCapability
from marketplace.performers.payout_accounts import cools_until
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import ConnectedAccount
from marketplace.stripe_api.gateway_errors import (
    NO_SUCH_OBJECT,
    StripeMisconfigured,
    StripeRefused,
)

_IS_WRONG = sa.text("SELECT is_wrong_destination(:performer, :account)")


async def account_at_stripe(gateway: StripeGateway, destination: str) -> ConnectedAccount | None:
    """None when our key sees no such account any more: no repeat will find it."""
    try:
        return await gateway.retrieve_account(destination)
    except (StripeRefused, StripeMisconfigured) as error:
        if error.code in NO_SUCH_OBJECT:
            return None
        raise


async def reason_to_hold(
    session: AsyncSession, payout: Payout, seen: ConnectedAccount | None, cooling: timedelta
) -> str | None:
    """In words for finance and the performer, with what to do; None when it may be paid."""
    account = await session.get(PayoutAccount, payout.performer_id)
    if account is None or account.stripe_account_id != payout.destination:
        return (
            "The payout account changed since this run was drafted: release this payout; the next "
            "run pays to the account that is there then."
        )
    if await session.scalar(
        _IS_WRONG, {"performer": payout.performer_id, "account": payout.destination}
    ):
        return (
            "wrong_destination: what was paid to this account is taken back, as it is not the "
            "performer's: release this payout and retire the account."
        )
    if seen is None:
        return (
            "Stripe shows us no such account any more: release this payout and retire the account, "
            "so that the performer can open another one."
        )
    if until := await cools_until(session, account, cooling):
        return (
            f"destination_cooling: the payout account changed on "
            f"{account.destination_changed_at:%Y-%m-%d}; finance can approve this again from "
            f"{until:%Y-%m-%d %H:%M} UTC on."
        )
    if seen.transfers != TransfersCapability.ACTIVE:
        return (
            "Stripe restricts the payout account: complete what it asks for, "
            "then finance can approve this again."
        )
    return None
