"""Drafting, approving and discarding runs; what finance may do with a single payout."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from marketplace.payouts.models import (
    PAYOUT_MOVES,
    RUN_MOVES,
    Payout,
    PayoutAttempt,
    PayoutLine,
    PayoutRun,
    PayoutState,
    RunState,
)
from marketplace.shared import clock, database, sweeps
from marketplace.shared.database import Sessions, row, statement, violated
from marketplace.shared.ids import new_id
from marketplace.shared.problems import Conflict, Forbidden, NotFound
from marketplace.shared.states import move, not_allowed
from marketplace.stripe_api.asking import NOT_FOUND


class PreparerMayNotApprove(Forbidden):
    """A run is approved by somebody other than the person who prepared it."""

    code = "preparer_may_not_approve"


class EditorMayNotApprove(Forbidden):
    """Who released or held a payout of this run does not approve what is left of it."""

    code = "editor_may_not_approve"


class RunNotApproved(Conflict):
    """Its run waits for approval, after an edit; approve that first."""

    code = "run_not_approved"


class PartlySent(Conflict):
    """Some of it is sent or kept back: release what waits, payout by payout, instead."""

    code = "partly_sent"


class NeverLost(Conflict):
    """Nothing of it was on its way: the next run pays what it would have paid."""

    code = "never_lost"


class EarningsInAnotherPayout(Conflict):
    """What it would have paid is in another payout: release that one first, unless it is paid."""

    code = "earnings_in_another_payout"


class OwnPayout(Forbidden):
    """Nobody decides about a payout of their own; ask a colleague."""

    code = "own_payout"


@dataclass(frozen=True)
class RunTotals:
    """Sums over a run's payouts, in minor units."""

    payouts: int
    amount_minor: int
    paid_minor: int
    reversed_minor: int
    excluded: int
    excluded_minor: int
    done: bool


async def draft(
    session: AsyncSession,
    *,
    currency: str,
    minimum_minor: int,
    prepared_by: UUID | None,
    slot_at: datetime | None = None,
) -> PayoutRun | None:
    """A run of everything owed by now; None when the slot's run exists. One statement decides."""
    await take_turns(session, currency)
    now = await clock.now(session)
    found = await row(
        session,
        statement("marketplace.payouts", "draft.sql"),
        run=new_id(),
        currency=currency,
        slot_at=slot_at,
        cut_off_at=slot_at or now,
        prepared_by=prepared_by,
        minimum_minor=minimum_minor,
    )
    return await session.get_one(PayoutRun, found["id"]) if found else None


async def take_turns(session: AsyncSession, currency: str) -> None:
    """What is free for a run in this currency stays so until the transaction ends."""
    await database.take_turns(session, "payout_run", currency)


async def draft_scheduled(sessions: Sessions, *, minimum_minor: int) -> int:
    """The weekly run of each currency in which somebody is owed money, once per slot."""
    currencies = sa.text("SELECT DISTINCT currency FROM account WHERE kind = 'performer_payable'")
    draft_slot = partial(_draft_slot, minimum_minor=minimum_minor)
    return await sweeps.each_due(sessions, "payout_runs", currencies, draft_slot)


async def _draft_slot(session: AsyncSession, currency: str, *, minimum_minor: int) -> bool:
    slot_at = await session.scalar(sa.text("SELECT last_run_at(marketplace_now())"))
    assert isinstance(slot_at, datetime)
    if not await _may_draft(session, currency, slot_at):
        return False
    run = await draft(
        session,
        currency=currency,
        minimum_minor=minimum_minor,
        prepared_by=None,
        slot_at=slot_at,
    )
    return run is not None


async def _may_draft(session: AsyncSession, currency: str, slot_at: datetime) -> bool:
    """Only when something was owed by the slot; an empty run would be noise."""
    # In a statement of its own: what was ever earned is not read at every tick.
    taken = select(PayoutRun.id).where(PayoutRun.currency == currency, PayoutRun.slot_at == slot_at)
    if (await session.exec(taken)).first() is not None:
        return False
    found = await session.scalar(
        sa.text(
            "SELECT EXISTS (SELECT FROM account"
            " JOIN ledger_entry ON ledger_entry.account_id = account.id"
            " JOIN ledger_transaction AS earning ON earning.id = transaction_id"
            " WHERE account.kind = 'performer_payable' AND account.currency = :currency"
            "  AND is_earning(earning.kind)"
            "  AND (booked_at <= :slot_at OR earning.kind = 'receivable_netted')"
            "  AND NOT EXISTS (SELECT FROM payout_line"
            "   WHERE ledger_entry_id = ledger_entry.id AND released_at IS NULL)"
            " GROUP BY account.id HAVING sum(amount_minor) < 0)"
        ),
        {"currency": currency, "slot_at": slot_at},
    )
    return bool(found)


async def find_run(session: AsyncSession, run_id: UUID, *, lock: bool = False) -> PayoutRun:
    query = select(PayoutRun).where(PayoutRun.id == run_id)
    if lock:
        query = query.with_for_update(key_share=True)
    run = (await session.exec(query)).first()
    if run is None:
        raise NotFound
    return run


async def approve(session: AsyncSession, *, run_id: UUID, approver: UUID) -> PayoutRun:
    """Freeze the run and let its payouts be sent."""
    run = await find_run(session, run_id, lock=True)
    await _require_approver(session, run, approver)
    if run.state is RunState.PAUSED:
        raise not_allowed(run, RUN_MOVES, "It is paused; resume it.")
    now = await clock.now(session)
    move(run, RunState.APPROVED, RUN_MOVES)
    run.approved_by, run.approved_at = approver, now
    # What they changed is approved now; only who changes it from here on may not approve again.
    run.edited_by = []
    await session.flush()
    await _move_payouts(session, run.id, PayoutState.APPROVED, due_at=now)
    return run


async def _require_approver(session: AsyncSession, run: PayoutRun, approver: UUID) -> None:
    """Neither who prepared it, nor who edited it since its approval, nor who is paid by it."""
    if run.prepared_by == approver:
        raise PreparerMayNotApprove
    if approver in run.edited_by:
        raise EditorMayNotApprove
    own = select(Payout.id).where(Payout.run_id == run.id, Payout.performer_id == approver)
    if (await session.exec(own)).first() is not None:
        raise OwnPayout


async def pause(session: AsyncSession, *, run_id: UUID, reason: str) -> PayoutRun:
    """Begin no new attempt of the run; what is on its way goes on."""
    run = await find_run(session, run_id, lock=True)
    move(run, RunState.PAUSED, RUN_MOVES, reason=reason)
    await session.flush()
    return run


async def resume(session: AsyncSession, *, run_id: UUID, reason: str, resumer: UUID) -> PayoutRun:
    """Let a paused run go on: only who could approve it."""
    run = await find_run(session, run_id, lock=True)
    await _require_approver(session, run, resumer)
    if run.state is not RunState.PAUSED:
        raise not_allowed(run, RUN_MOVES, "It is not paused.")
    move(run, RunState.APPROVED, RUN_MOVES, reason=reason)
    await session.flush()
    return run


async def discard(session: AsyncSession, *, run_id: UUID, reason: str) -> PayoutRun:
    """Give a draft up of which nothing was sent; what is owed waits for the next run."""
    run = await find_run(session, run_id, lock=True)
    move(run, RunState.DISCARDED, RUN_MOVES, reason=reason)
    begun = select(Payout.id).where(
        Payout.run_id == run.id,
        col(Payout.state).not_in((PayoutState.DRAFT, PayoutState.RELEASED)),
    )
    if (await session.exec(begun)).first() is not None:
        raise PartlySent
    await session.flush()
    await _move_payouts(session, run.id, PayoutState.RELEASED, reason=reason)
    given_up = select(Payout.id).where(
        Payout.run_id == run.id, Payout.state == PayoutState.RELEASED
    )
    await session.execute(
        sa.update(PayoutLine)
        .where(col(PayoutLine.payout_id).in_(given_up), col(PayoutLine.released_at).is_(None))
        .values(released_at=sa.func.marketplace_now())
        .execution_options(synchronize_session=False)
    )
    return run


async def _move_payouts(
    session: AsyncSession,
    run_id: UUID,
    to: PayoutState,
    *,
    due_at: datetime | None = None,
    reason: str | None = None,
) -> None:
    """All drafts of a run in one statement; the database's trigger checks and records each."""
    await session.execute(
        sa.update(Payout)
        .where(col(Payout.run_id) == run_id, col(Payout.state) == PayoutState.DRAFT)
        .values(state=to, state_reason=reason, due_at=due_at)
        .execution_options(synchronize_session=False)
    )


async def find_payout(session: AsyncSession, payout_id: UUID, *, lock: bool = False) -> Payout:
    query = select(Payout).where(Payout.id == payout_id)
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    payout = (await session.exec(query)).first()
    if payout is None:
        raise NotFound
    return payout


async def approve_again(
    session: AsyncSession, *, payout_id: UUID, reason: str, approver: UUID
) -> Payout:
    """Let a held or refused payout be tried again (a new attempt, a new key)."""
    run_id = (await find_payout(session, payout_id)).run_id
    run = await find_run(session, run_id, lock=True)
    payout = await find_payout(session, payout_id, lock=True)
    require_second_person(run, payout, approver)
    if approver in run.edited_by:
        raise EditorMayNotApprove
    if payout.state is PayoutState.DRAFT:
        raise Conflict("It is a draft; approve its run.", state=payout.state.value)
    move(payout, PayoutState.APPROVED, PAYOUT_MOVES, reason=reason)
    if run.state is RunState.DRAFT:
        raise RunNotApproved
    payout.approved_again_by = approver
    payout.due_at = await clock.now(session)
    await session.flush()
    return payout


def require_second_person(run: PayoutRun, payout: Payout, decider: UUID) -> None:
    """Neither who prepared the run nor who is paid decides."""
    if run.prepared_by == decider:
        raise PreparerMayNotApprove
    if payout.performer_id == decider:
        raise OwnPayout


async def reissue(session: AsyncSession, *, payout_id: UUID, prepared_by: UUID) -> PayoutRun:
    """A run of one payout, exactly as one was that was given up after its outcome was lost.

    Somebody else approves it. What Stripe made of the first one after all is booked as its payment;
    no other is sent.
    """
    given_up = await find_payout(session, payout_id)
    if given_up.performer_id == prepared_by:
        raise OwnPayout
    if given_up.state is not PayoutState.RELEASED:
        raise not_allowed(given_up, PAYOUT_MOVES, "It is not given up.")
    lost = select(PayoutAttempt.id).where(
        PayoutAttempt.payout_id == payout_id, PayoutAttempt.error_code == NOT_FOUND
    )
    if (await session.exec(lost)).first() is None:
        raise NeverLost
    await take_turns(session, given_up.currency)
    run_id = new_id()
    try:
        async with session.begin_nested():
            await session.execute(
                statement("marketplace.payouts", "reissue.sql"),
                {"payout": payout_id, "run": run_id, "prepared_by": prepared_by},
            )
    except sa.exc.IntegrityError as error:
        if violated(error) == "uq_payout_line_entry":
            raise EarningsInAnotherPayout from error
        raise
    return await session.get_one(PayoutRun, run_id)


async def totals(session: AsyncSession, run_id: UUID) -> RunTotals:
    found = await row(
        session,
        "WITH came_back AS (SELECT coalesce(sum(reversal.amount_minor), 0)::bigint AS minor"
        " FROM transfer_reversal AS reversal JOIN payout ON payout.id = payout_id"
        " WHERE run_id = :run AND reversal.state = 'reversed')"
        " SELECT count(*) AS payouts, coalesce(sum(amount_minor), 0)::bigint AS amount_minor,"
        " (coalesce(sum(amount_minor) FILTER (WHERE state IN ('paid', 'partly_reversed', 'reversed')),"
        "  0) - (SELECT minor FROM came_back))::bigint AS paid_minor,"
        " (SELECT minor FROM came_back) AS reversed_minor,"
        " (SELECT count(*) FROM payout_exclusion WHERE run_id = :run) AS excluded,"
        " (SELECT coalesce(sum(amount_minor), 0)::bigint FROM payout_exclusion WHERE run_id = :run)"
        "  AS excluded_minor,"
        " coalesce(bool_and(state IN ('paid', 'refused', 'released',"
        "  'partly_reversed', 'reversed')), true)"
        "  AND ((SELECT state FROM payout_run WHERE id = :run) <> 'draft'"
        # Its approval fell, and nothing is left to approve: what is not sent was released.
        "   OR coalesce(bool_or(state <> 'released'), false)) AS done"
        " FROM payout WHERE run_id = :run",
        run=run_id,
    )
    assert found is not None
    return RunTotals(**found)
