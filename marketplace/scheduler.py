"""Background work: APScheduler ticks, the database decides.

A sweep leases due rows under `FOR UPDATE SKIP LOCKED`, or takes them one by one and leaves those
that another process is at, or writes one row unique per slot; so any number of processes may tick at
once, and a missed tick only delays. Everything is in UTC.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from marketplace.accounts import service as accounts
from marketplace.bank import bank_payouts, outcomes
from marketplace.bank import sending as withdrawals
from marketplace.claims import service as claims
from marketplace.claims import settlement, time, withholdings
from marketplace.exceptions import service as exceptions
from marketplace.funding import deposits, disputes, refund_sending, refunds, topups
from marketplace.jobs import service as jobs
from marketplace.jobs.unfunding import give_up_open_roles
from marketplace.payouts import reversals, reversing, sending
from marketplace.payouts import service as payouts
from marketplace.performers import auditions, payout_accounts
from marketplace.reconciliation import service as reconciliation
from marketplace.recordings import service as recordings
from marketplace.recordings.storage import Storage
from marketplace.reports import verify
from marketplace.reviews import service as reviews
from marketplace.reviews import submissions, unused_takes
from marketplace.seals import service as seals
from marketplace.shared import idempotency, logs, metrics
from marketplace.shared.database import Sessions
from marketplace.shared.settings import Settings
from marketplace.stripe_api import inbox
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.models import StripeEvent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What sweeps (and the application) work with."""

    settings: Settings
    sessions: Sessions
    gateway: StripeGateway
    storage: Storage


Sweep = Callable[[Parts], Awaitable[int]]


@dataclass(frozen=True)
class Scheduled:
    """A sweep, how often it ticks, and what it is for."""

    every_seconds: int
    run: Sweep
    purpose: str


async def _deposit_changed(
    _sessions: Sessions, gateway: StripeGateway, event: StripeEvent
) -> inbox.Effect:
    payment = await gateway.retrieve_deposit(event.object_id)
    return partial(deposits.credit, payment=payment)


async def _topup_changed(
    _sessions: Sessions, gateway: StripeGateway, event: StripeEvent
) -> inbox.Effect:
    payment = await gateway.retrieve_topup(event.object_id)
    return partial(topups.settle, payment=payment)


async def _bank_payout_changed(
    sessions: Sessions, gateway: StripeGateway, event: StripeEvent
) -> inbox.Effect:
    """The platform's own, or a connected account's."""
    if event.account is None:
        payout = await gateway.retrieve_bank_payout(event.object_id)
        return partial(outcomes.settle, seen=payout)
    seen = await bank_payouts.look_at(sessions, gateway, event.account, event.object_id)
    return partial(bank_payouts.note, seen=seen)


async def _refund_changed(
    _sessions: Sessions, gateway: StripeGateway, event: StripeEvent
) -> inbox.Effect:
    seen = await gateway.retrieve_refund(event.object_id)
    return partial(refunds.settle, seen=seen)


async def _dispute_changed(
    _sessions: Sessions, gateway: StripeGateway, event: StripeEvent
) -> inbox.Effect:
    seen = await gateway.retrieve_dispute(event.object_id)
    return partial(disputes.settle, seen=seen, give_up=give_up_open_roles)


async def _account_changed(
    sessions: Sessions, gateway: StripeGateway, event: StripeEvent
) -> inbox.Effect:
    account_id = event.account or event.object_id
    seen = await payout_accounts.look_at(sessions, gateway, account_id)
    return partial(payout_accounts.note_seen, seen=seen)


async def _transfer_reversed(
    _sessions: Sessions, gateway: StripeGateway, event: StripeEvent
) -> inbox.Effect:
    seen = await gateway.find_reversals(event.object_id)
    told = event.payload["data"]["object"].get("metadata") or {}
    return partial(
        reversals.note_found,
        transfer_id=event.object_id,
        seen=seen,
        payout_id=told.get("payout_id", ""),
    )


# What each event type means here; any other type is kept and has no effect.
EVENT_HANDLERS: dict[str, inbox.Handler] = {
    "checkout.session.completed": _deposit_changed,
    "checkout.session.async_payment_succeeded": _deposit_changed,
    "checkout.session.async_payment_failed": _deposit_changed,
    "checkout.session.expired": _deposit_changed,
    "topup.created": _topup_changed,
    "topup.succeeded": _topup_changed,
    "topup.failed": _topup_changed,
    "topup.canceled": _topup_changed,
    "refund.created": _refund_changed,
    "refund.updated": _refund_changed,
    "refund.failed": _refund_changed,
    "charge.dispute.created": _dispute_changed,
    "charge.dispute.updated": _dispute_changed,
    "charge.dispute.closed": _dispute_changed,
    "charge.dispute.funds_withdrawn": _dispute_changed,
    "charge.dispute.funds_reinstated": _dispute_changed,
    "account.updated": _account_changed,
    "payout.created": _bank_payout_changed,
    "payout.updated": _bank_payout_changed,
    "payout.paid": _bank_payout_changed,
    "payout.failed": _bank_payout_changed,
    "payout.canceled": _bank_payout_changed,
    "transfer.reversed": _transfer_reversed,
}


def _grace(parts: Parts) -> int:
    return parts.settings.heartbeat_grace_seconds


SWEEPS: dict[str, Scheduled] = {
    "time": Scheduled(
        5,
        lambda parts: time.end_overdue(parts.sessions, grace_seconds=_grace(parts)),
        "end time entries that fell silent or reached a cap or deadline",
    ),
    "expiry": Scheduled(
        5,
        lambda parts: claims.expire_due(parts.sessions, grace_seconds=_grace(parts)),
        "expire claims past their deadline; their time is paid, their role opens again",
    ),
    "recordings": Scheduled(
        1,
        lambda parts: recordings.check_due(parts.sessions, parts.storage),
        "check uploaded recordings; give up uploads that never came",
    ),
    "leftovers": Scheduled(
        3600,
        lambda parts: parts.storage.remove_unfinished(older_than_seconds=2 * 24 * 3600),
        "remove what uploads left that were cut off by a kill",
    ),
    "unused": Scheduled(
        3600,
        lambda parts: unused_takes.purge_unused(parts.sessions, parts.storage),
        "delete takes that were never handed in, 30 days after their work ended",
    ),
    "reviews": Scheduled(
        1,
        lambda parts: submissions.start_reviews(parts.sessions),
        "start the review clock of submissions whose recordings are checked",
    ),
    "accept": Scheduled(
        5,
        lambda parts: reviews.decide_overdue(parts.sessions),
        "accept takes that nobody decided in time",
    ),
    "withdrawn": Scheduled(
        5,
        lambda parts: reviews.end_withdrawn(parts.sessions, grace_seconds=_grace(parts)),
        "end the work of claims whose consent was withdrawn; their time is paid",
    ),
    "pay": Scheduled(
        5,
        lambda parts: settlement.pay_overdue(parts.sessions),
        "pay the time of ended claims that nobody decided in time",
    ),
    "withheld": Scheduled(
        300,
        lambda parts: withholdings.return_unclaimed(parts.sessions),
        "return withheld money when the time for an appeal is over",
    ),
    "auditions": Scheduled(
        60,
        lambda parts: auditions.mind_overdue(parts.sessions, grace_seconds=_grace(parts)),
        "fail auditions that were not handed in (paid); log those that nobody judges as errors",
    ),
    "jobs": Scheduled(
        2,
        lambda parts: jobs.close_settled(parts.sessions),
        "close closing jobs when nothing is held or set aside any more",
    ),
    "inbox": Scheduled(
        1,
        lambda parts: inbox.apply_due(parts.sessions, parts.gateway, EVENT_HANDLERS),
        "apply stored Stripe events",
    ),
    "poll_events": Scheduled(
        30,
        lambda parts: inbox.poll_events(parts.sessions, parts.gateway),
        "store the Stripe events that no webhook brought",
    ),
    "poll_deposits": Scheduled(
        30,
        lambda parts: deposits.poll(parts.sessions, parts.gateway),
        "look at deposits whose event did not come",
    ),
    "poll_topups": Scheduled(
        30,
        lambda parts: topups.poll(parts.sessions, parts.gateway),
        "look at top-ups whose reply or event did not come",
    ),
    "poll_accounts": Scheduled(
        30,
        lambda parts: payout_accounts.poll(parts.sessions, parts.gateway),
        "look at payout accounts whose event did not come",
    ),
    "poll_bank_payouts": Scheduled(
        30,
        lambda parts: bank_payouts.poll(parts.sessions, parts.gateway),
        "look at what performers' accounts paid out to their banks",
    ),
    "withdrawals": Scheduled(
        5,
        lambda parts: withdrawals.send_due(parts.sessions, parts.gateway),
        "send approved withdrawals, go on with interrupted ones, follow them to the bank",
    ),
    "funds": Scheduled(
        10,
        lambda parts: deposits.make_available(parts.sessions),
        "book deposits that Stripe has let out of pending",
    ),
    "payout_runs": Scheduled(
        30,
        lambda parts: payouts.draft_scheduled(
            parts.sessions, minimum_minor=parts.settings.minimum_payout_minor
        ),
        "draft the weekly payout runs (Mondays, 06:00 UTC)",
    ),
    "stripe_lines": Scheduled(
        300,
        lambda parts: reconciliation.read_lines(parts.sessions, parts.gateway),
        "read the lines of Stripe's own books",
    ),
    "refunds": Scheduled(
        2,
        lambda parts: refund_sending.send_due(parts.sessions, parts.gateway),
        "ask Stripe for refunds, go on with interrupted ones, look at those on their way",
    ),
    "late_lines": Scheduled(
        60,
        lambda parts: exceptions.attach_late_lines(parts.sessions),
        "name Stripe's line of what was booked before Stripe named it",
    ),
    "disputes": Scheduled(
        30,
        lambda parts: disputes.poll(parts.sessions, parts.gateway, give_up=give_up_open_roles),
        "look at disputes whose event did not come",
    ),
    "seal": Scheduled(
        60,
        lambda parts: seals.sweep(parts.sessions, parts.storage),
        "chain what was booked since the last seal, and keep the chain's head with the files",
    ),
    "expired_keys": Scheduled(
        3600,
        lambda parts: idempotency.forget_old(parts.sessions),
        "forget idempotency keys, and the answers kept with them, after 30 days",
    ),
    "sign_in_failures": Scheduled(
        3600,
        lambda parts: accounts.forget_failures(parts.sessions),
        "forget counts of wrong passwords whose window is over",
    ),
    "payouts": Scheduled(
        2,
        lambda parts: sending.send_due(
            parts.sessions,
            parts.gateway,
            cooling=timedelta(seconds=parts.settings.destination_cooling_seconds),
        ),
        "send approved payouts and go on with interrupted ones",
    ),
    "reversals": Scheduled(
        2,
        lambda parts: reversing.reverse_due(parts.sessions, parts.gateway),
        "take back what two people approved and go on with what was interrupted",
    ),
    "verify": Scheduled(
        300,
        lambda parts: verify.watch(parts.sessions, parts.gateway, parts.storage),
        "check every invariant once an hour; a violation is an error in the log",
    ),
}


@asynccontextmanager
async def ticking(parts: Parts, *, enabled: bool) -> AsyncIterator[None]:
    """Tick all sweeps until the block ends."""
    if not enabled:
        yield
        return
    scheduler = AsyncIOScheduler(timezone="UTC")
    for name, scheduled in SWEEPS.items():
        scheduler.add_job(
            _tick,
            "interval",
            args=(parts, name),
            seconds=scheduled.every_seconds,
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)


async def _tick(parts: Parts, name: str) -> None:
    """One run; a failure is logged and the next tick tries again."""
    with logs.about(sweep=name):
        try:
            with metrics.sweeping(name):
                done = await SWEEPS[name].run(parts)
            metrics.SWEPT.labels(name).inc(done)
        except Exception:
            log.exception("sweep %s failed; the next tick tries again", name)
