"""Asking Stripe for what must happen once: what every sender shares.

The intent is committed, Stripe is asked outside any transaction, the outcome is committed. A kill
between any two steps leaves a row that says what to do: the same is asked for again with the same key
while Stripe remembers it; later it is looked up instead. There is never a new key after an unknown
outcome. Whoever was paused past its lease asks for nothing: others may have gone on.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import SQLModel, col, select
from sqlmodel.sql.expression import SelectOfScalar

from marketplace.stripe_api.gateway_errors import StripeRefused
from marketplace.stripe_api.polling import STRIPE_ERRORS

# Longer than two calls to Stripe may take; whoever makes more renews it. After it another process may
# go on.
LEASE = timedelta(seconds=60)
# Stripe may forget a key after 24 h; after this what was asked for is looked up.
KEY_SERVES = timedelta(hours=23) - LEASE
LONGEST_WAIT = timedelta(hours=1)
NOT_FOUND = "not_found"

Row = TypeVar("Row", bound=SQLModel)
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What was committed, as it was read right before Stripe is asked."""

    key: str
    key_serves: bool
    leased_until: datetime
    # By this process's own clock, which goes on while the process does not.
    read_at: float

    @property
    def is_stale(self) -> bool:
        return time.time() - self.read_at > LEASE.total_seconds()


@dataclass(frozen=True)
class Failure:
    """Why there is nothing: definitively refused, looked for in vain (`NOT_FOUND`), or not known."""

    refused: bool
    code: str
    message: str
    request_id: str | None = None


def next_due(model: type[Row]) -> SelectOfScalar[Row]:
    """The row of a queue (`id`, `due_at`) that waited longest, unless another process is at it."""
    rows: Any = model
    return (
        select(model)
        .where(col(rows.due_at) <= sa.func.marketplace_now())
        .order_by(col(rows.due_at), col(rows.id))
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True, of=rows)
    )


def key_serves(committed_at: datetime, now: datetime) -> bool:
    return now - committed_at < KEY_SERVES


async def ask(
    intent: Intent,
    *,
    send: Callable[[], Awaitable[Answer]],
    look_up: Callable[[], Awaitable[Answer | None]],
    what: str,
) -> Answer | Failure | None:
    """Ask for it with its key or, when that is too old, look for it: the answer, or why there is none.

    None when this process was paused: by now Stripe may have forgotten the key.
    """
    if intent.is_stale:
        return None
    try:
        if intent.key_serves:
            return await send()
        return await look_up() or Failure(
            refused=False,
            code=NOT_FOUND,
            message=f"Stripe has no such {what}, and its key is too old to ask again: "
            "finance decides.",
        )
    except StripeRefused as error:
        # A look-up that is refused says nothing about what was asked for.
        return Failure(
            refused=intent.key_serves,
            code=error.code,
            message=error.message,
            request_id=error.request_id,
        )
    except STRIPE_ERRORS as error:
        return Failure(refused=False, code=type(error).__name__, message=str(error))


def wait(tries: int) -> timedelta:
    """How long after the nth try in vain the next one waits."""
    return min(timedelta(seconds=2 ** min(tries, 12)), LONGEST_WAIT)
