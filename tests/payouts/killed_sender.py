"""A sender that kills itself: `forked(world, "tests.payouts.killed_sender", …)`, [after|before STEP [stop]].

Steps: lease, its renewal, intent, outcome (their COMMIT), reading (of the intent), transfer and
look_up (the calls to Stripe). With `stop` it only stops, until somebody lets it go on. Without a step
it sends all that is due.
"""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.orm import Session

from marketplace import installation
from marketplace.app import parts_of
from marketplace.payouts import sending
from marketplace.stripe_api import asking, gateway_requests

COMMITS = ("lease", "renewal", "intent", "outcome")
CALLS = {"transfer": "POST", "look_up": "GET"}
# Of a sender that is stopped, so that a story outlives it in no time.
SHORT_LEASE = timedelta(seconds=1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def end_at(when: str, step: str, end: Callable[[], None], engine: sa.Engine) -> None:
    if step in CALLS:
        end_at_call(when, CALLS[step], end, lambda url: urlsplit(url).path == "/v1/transfers")
    elif step == "reading":
        _end_at_reading(end, engine)
    else:
        end_at_commit(when, COMMITS.index(step) + 1, end, engine)


def end_at_commit(when: str, which: int, end: Callable[[], None], engine: sa.Engine) -> None:
    seen = {"before": 0, "after": 0}

    def count(moment: str) -> None:
        seen[moment] += 1
        if moment == when and seen[moment] == which:
            end()

    def answered(session: Session) -> None:
        # The end of a savepoint commits nothing.
        if not session.in_nested_transaction():
            count("after")

    # Before: everything was sent but COMMIT itself. After: the database has answered it.
    sa.event.listen(engine, "commit", lambda _connection: count("before"))
    sa.event.listen(Session, "after_commit", answered)


def _end_at_reading(end: Callable[[], None], engine: sa.Engine) -> None:
    """Once it has read the intent and then the time."""
    read: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT payout_attempt.") and "FOR UPDATE" not in statement:
            read.append(statement)
        elif read and "marketplace_now()" in statement:
            read.clear()
            end()

    sa.event.listen(engine, "after_cursor_execute", look)


def end_at_call(
    when: str, wanted: str, end: Callable[[], None], is_there: Callable[[str], bool]
) -> None:
    ask = gateway_requests.HttpClient.request

    async def request(self: Any, method: str, url: Any, **rest: Any) -> Any:
        is_it = method.upper() == wanted and is_there(str(url))
        if is_it and when == "before":
            end()
        answer = await ask(self, method, url, **rest)
        if is_it and when == "after":
            end()
        return answer

    gateway_requests.HttpClient.request = request  # type: ignore[method-assign] # in its own process alone


async def main(*where: str) -> None:
    async with parts_of(installation.settings_from(os.environ, database_pool_size=2)) as parts:
        if where:
            when, step, *stopped = where
            if stopped:
                asking.LEASE = SHORT_LEASE
            end = stop if stopped else die
            end_at(when, step, end, parts.sessions.kw["bind"].sync_engine)
        await sending.send_due(parts.sessions, parts.gateway)
