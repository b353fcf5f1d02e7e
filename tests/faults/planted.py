# ruff: noqa: SLF001 - a bug is put where it hurts
"""Bugs on purpose, to see that the campaign finds them: put in by name, in its processes alone.

Each is what somebody might well have written. It is caught by an invariant, or by the database, which
refuses what the bug would do. Nothing of the product knows of any of them.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlmodel import select

from marketplace.bank import sending as bank_sending
from marketplace.claims import service as claims
from marketplace.claims import settlement
from marketplace.claims.models import TimeEntry
from marketplace.funding import deposits
from marketplace.funding.models import Deposit
from marketplace.jobs.models import Role
from marketplace.ledger import service as ledger
from marketplace.ledger.models import TransactionKind
from marketplace.payouts import attempts, late_transfers, outcomes, sending
from marketplace.payouts import service as payouts
from marketplace.payouts.models import Payout, PayoutAttempt
from marketplace.shared import audit, clock, idempotency, requests
from marketplace.shared.database import statement
from marketplace.shared.money import fee_minor, pay_minor
from marketplace.stripe_api import asking, inbox
from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_answers import Transfer


@dataclass(frozen=True)
class Bug:
    """`shows` says where it can show: a flow with a seed, labels of points, and kinds of fault."""

    plant: Callable[[], None]
    flow: str
    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    seed: int = 1


def replace(where: Any, name: str, by: Any) -> None:
    """In this process alone, which is one of the campaign's."""
    assert hasattr(where, name), name
    setattr(where, name, by)


def fresh_key_per_retry() -> None:
    ask = StripeGateway.send_transfer

    async def send_transfer(gateway: Any, *, idempotency_key: str, **asked: Any) -> Transfer:
        return await ask(gateway, idempotency_key=f"{idempotency_key}-{uuid4()}", **asked)

    replace(StripeGateway, "send_transfer", send_transfer)


def fresh_key_per_refund() -> None:
    ask = StripeGateway.create_refund

    async def create_refund(gateway: Any, *, idempotency_key: str, **asked: Any) -> Any:
        return await ask(gateway, idempotency_key=f"{idempotency_key}-{uuid4()}", **asked)

    replace(StripeGateway, "create_refund", create_refund)


def asked_again_after_a_day() -> None:
    replace(asking, "KEY_SERVES", timedelta(days=365))


def marked_sent_before_the_call() -> None:
    async def send(
        sessions: Any, gateway: StripeGateway, payout: Payout, cooling: timedelta
    ) -> None:
        leased_until = await sending._commit_intent(sessions, gateway, payout, cooling)
        if leased_until is None:
            return
        intent = await sending._read_intent(sessions, payout.id, leased_until)
        if intent is None:
            return
        hoped_for = Transfer(
            id=f"tr_{intent.attempt_id.hex}",
            amount_reversed_minor=0,
            balance_transaction_id=None,
            created_at=datetime.now(UTC),
            request_id=None,
            **intent.request,
        )
        await sending._commit_outcome(sessions, intent, hoped_for)
        await sending._ask_stripe(gateway, intent)

    replace(sending, "send", send)


def without_the_row_lock() -> None:
    async def find_payout(session: Any, payout_id: Any, *, lock: bool = False) -> Payout:
        return await payouts.find_payout(session, payout_id)

    async def share_run(session: Any, run_id: Any) -> Any:
        return await payouts.find_run(session, run_id)

    replace(sending, "find_payout", find_payout)
    replace(sending, "_share_run", share_run)


def lease_without_fencing() -> None:
    async def read_intent(sessions: Any, payout_id: Any, leased_until: Any) -> Any:
        async with sessions() as session:
            attempt = (
                await session.exec(select(PayoutAttempt).where(sending._is_open(payout_id)))
            ).one()
            await clock.now(session)
        return sending.Intent(
            attempt_id=attempt.id,
            payout_id=payout_id,
            key=attempt.idempotency_key,
            request=attempt.request,
            key_serves=True,
            leased_until=leased_until,
            read_at=float("inf"),
        )

    replace(sending, "_read_intent", read_intent)


def marked_handled_before_its_effect() -> None:
    async def apply(sessions: Any, gateway: Any, handlers: Any, event: Any) -> None:
        async with sessions() as session:
            if await inbox._is_unhandled(session, event):
                await inbox._mark_handled(session, event)
            await session.commit()
        handler = handlers.get(event.type)
        if handler is None:
            return
        effect = await handler(sessions, gateway, event)
        async with sessions() as session:
            await audit.act_as(session, f"stripe:{event.id}")
            await effect(session)
            await session.commit()

    replace(inbox, "_apply", apply)


def credited_by_whoever_sees_it() -> None:
    """A deposit's poller and its event both credit it, without a look at its state."""

    async def credit(session: Any, payment: Any) -> None:
        found = await session.exec(
            select(Deposit).where(Deposit.checkout_session_id == payment.session_id)
        )
        await deposits._book_deposit(session, found.one(), payment)
        await session.flush()

    replace(deposits, "credit", credit)
    replace(deposits, "move", lambda row, to, *_: setattr(row, "state", to))


def rounded_per_time_entry() -> None:
    async def price(session: Any, claim: Any) -> Any:
        entries = (
            await session.exec(select(TimeEntry).where(TimeEntry.claim_id == claim.id))
        ).all()
        seconds = [int((each.ended_at - each.started_at).total_seconds()) for each in entries]
        pay = sum(pay_minor(each, claim.rate_minor_per_hour) for each in seconds)
        fee = fee_minor(pay, claim.fee_basis_points)
        return settlement.Price(sum(seconds), pay, fee)

    replace(settlement, "_price", price)


def float_money() -> None:
    """`round` goes to the even neighbour, and a float is not exact anyway."""

    def pay(seconds: int, rate_minor_per_hour: int) -> int:
        return int(seconds / 3600 * rate_minor_per_hour)

    replace(settlement, "pay_minor", pay)


def _posting_with(change: Callable[[Any, list[Any]], Any]) -> None:
    post = ledger.post

    async def posted(session: Any, *postings: Any) -> None:
        kept = await change(session, list(postings))
        await post(session, *kept)

    replace(ledger, "post", posted)


def one_sided_with_constraints_set() -> None:
    entries = ledger._entries

    async def immediately(session: Any, postings: list[Any]) -> list[Any]:
        await session.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))
        return postings

    replace(ledger, "_entries", lambda posting: entries(posting)[:1])
    _posting_with(immediately)


def balance_written_by_hand() -> None:
    async def write(session: Any, postings: list[Any]) -> list[Any]:
        await session.execute(
            sa.text("UPDATE account_balance SET balance_minor = balance_minor + 1")
        )
        return postings

    _posting_with(write)


def nothing_in_flight() -> None:
    async def leave_out(_session: Any, postings: list[Any]) -> list[Any]:
        return [each for each in postings if each.kind is not TransactionKind.TRANSFER_SENT]

    _posting_with(leave_out)


def counted_then_claimed() -> None:
    """Looks whether the role is free, and then takes it."""

    def naive(package: str, name: str) -> sa.TextClause:
        text = str(statement(package, name))
        return sa.text(text.replace("AND role.state = 'open'", ""))

    make = claims._try_to_make

    async def try_to_make(session: Any, values: dict[str, Any]) -> Any:
        role = await session.get_one(Role, values["role"])
        return await make(session, values) if role.state == "open" else None

    replace(claims, "statement", naive)
    replace(claims, "_try_to_make", try_to_make)


def answer_kept_after_the_work() -> None:
    """The key's answer is stored in a transaction of its own, after that of the work."""

    async def answer_once(request: Any, session: Any, handle: Any) -> Any:
        try:
            response = await handle(request)
        except idempotency.Replay as replay:
            return replay.answer()
        where = getattr(request.state, "idempotency", None)
        await session.commit()
        if where is not None:
            await idempotency.store(request, session, response)
            await session.commit()
        return response

    replace(requests, "answer_once", answer_once)


def keys_are_not_looked_at() -> None:
    async def begin(*_: Any) -> None:
        await asyncio.sleep(0)

    replace(idempotency, "begin", begin)


def answered_whatever_the_commit_says() -> None:
    """As code after `yield` in a FastAPI dependency does it: by then the answer is out."""
    answer_once = requests.answer_once

    async def hopeful(request: Any, session: Any, handle: Any) -> Any:
        commit = session.commit

        async def hope() -> None:
            with suppress(sa.exc.DBAPIError):
                await commit()

        session.commit = hope
        return await answer_once(request, session, handle)

    replace(requests, "answer_once", hopeful)


def unknown_taken_for_refused() -> None:
    ask = sending._ask_stripe

    async def ask_stripe(gateway: Any, intent: Any) -> Any:
        outcome = await ask(gateway, intent)
        if isinstance(outcome, asking.Failure):
            return dataclasses.replace(outcome, refused=True)
        return outcome

    async def nothing_stands(*_: Any) -> list[Transfer]:
        return []

    replace(sending, "_ask_stripe", ask_stripe)
    # A look before the next attempt would mend it.
    replace(late_transfers, "standing_transfers", nothing_stands)


def withdrawal_taken_for_refused() -> None:
    ask = bank_sending._ask_stripe

    async def ask_stripe(gateway: Any, intent: Any) -> Any:
        outcome = await ask(gateway, intent)
        if isinstance(outcome, asking.Failure):
            return dataclasses.replace(outcome, refused=True)
        return outcome

    replace(bank_sending, "_ask_stripe", ask_stripe)


def outcome_written_by_whoever_has_one() -> None:
    async def commit_outcome(sessions: Any, intent: Any, outcome: Any) -> None:
        async with sessions() as session:
            await audit.act_as(session, attempts.ACTOR)
            payout = await payouts.find_payout(session, intent.payout_id, lock=True)
            attempt = await session.get_one(PayoutAttempt, intent.attempt_id)
            await outcomes.conclude(session, payout, attempt, outcome)
            await session.commit()

    replace(sending, "_commit_outcome", commit_outcome)
    replace(outcomes, "move", lambda row, to, *_, **__: setattr(row, "state", to))


DEAD = ("killed_before", "killed_after")
LOST = ("apply_then_drop", "error_500_after_apply")
SEND = ("POST /v1/transfers",)
BUGS: dict[str, Bug] = {
    "a fresh key per retry": Bug(fresh_key_per_retry, "payout", SEND, LOST),
    "asked again after a day": Bug(
        asked_again_after_a_day, "payout", SEND, ("apply_then_drop",), seed=3
    ),
    "marked sent before the call": Bug(marked_sent_before_the_call, "payout", SEND, DEAD),
    "an unknown outcome taken for a refusal": Bug(unknown_taken_for_refused, "payout", SEND, LOST),
    "a lease without fencing": Bug(
        lease_without_fencing, "payout", ("SELECT",), ("stopped_before",), seed=2
    ),
    "an outcome written by whoever has one": Bug(
        outcome_written_by_whoever_has_one, "payout", ("SELECT",), ("stopped_before",), seed=1
    ),
    "no row lock against a cancel": Bug(
        without_the_row_lock, "payout", ("WITH", "INSERT"), ("stopped_before",), seed=3
    ),
    "nothing booked as in flight": Bug(nothing_in_flight, "payout", ("COMMIT",), DEAD),
    "a fresh key per try to refund": Bug(
        fresh_key_per_refund, "refund", ("POST /v1/refunds",), LOST, seed=4
    ),
    "a withdrawal without an answer taken for refused": Bug(
        withdrawal_taken_for_refused, "withdrawal", ("POST /v1/payouts",), LOST
    ),
    "an event marked handled before its effect": Bug(
        marked_handled_before_its_effect, "webhook", ("GET /v1/checkout",), DEAD
    ),
    "a deposit credited by whoever sees it": Bug(
        credited_by_whoever_sees_it, "deposit", ("COMMIT",), DEAD
    ),
    "rounding per time entry": Bug(rounded_per_time_entry, "decision", ("COMMIT",), DEAD, seed=2),
    "float money": Bug(float_money, "decision", ("COMMIT",), DEAD),
    "a one-sided entry behind SET CONSTRAINTS": Bug(
        one_sided_with_constraints_set, "publish", ("COMMIT",), DEAD
    ),
    "a balance written by hand": Bug(balance_written_by_hand, "publish", ("COMMIT",), DEAD),
    "looked, then claimed": Bug(counted_then_claimed, "race", ("WITH",), ("stopped_before",)),
    "an answer kept after its work": Bug(
        answer_kept_after_the_work, "publish", ("COMMIT", "UPDATE"), DEAD
    ),
    "keys that nobody looks at": Bug(
        keys_are_not_looked_at, "publish", ("COMMIT",), ("reply_lost", "killed_after")
    ),
    "an answer whatever the commit says": Bug(
        answered_whatever_the_commit_says, "publish", ("COMMIT",), ("connection_lost",)
    ),
}
