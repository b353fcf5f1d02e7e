"""A sender that kills itself: `forked(world, "tests.bank.killed_sender", …)`, [after|before STEP].

Steps: lease, intent, outcome (their COMMIT), payout (the call to Stripe) and look (at what is on its
way). Without a step it sends all that is due.
"""

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.orm import Session

from marketplace import installation
from marketplace.app import parts_of
from marketplace.bank import sending
from marketplace.stripe_api import gateway_requests
from tests.payouts.killed_sender import die

COMMITS = ("lease", "intent", "outcome")
CALLS = {"payout": "POST", "look": "GET"}


def end_at(when: str, step: str, engine: sa.Engine) -> None:
    if step in CALLS:
        _end_at_call(when, CALLS[step])
    else:
        _end_at_commit(when, COMMITS.index(step) + 1, engine)


def _end_at_commit(when: str, which: int, engine: sa.Engine) -> None:
    seen = {"before": 0, "after": 0}

    def count(moment: str) -> None:
        seen[moment] += 1
        if moment == when and seen[moment] == which:
            die()

    def answered(session: Session) -> None:
        # The end of a savepoint commits nothing.
        if not session.in_nested_transaction():
            count("after")

    sa.event.listen(engine, "commit", lambda _connection: count("before"))
    sa.event.listen(Session, "after_commit", answered)


def _end_at_call(when: str, wanted: str) -> None:
    ask: Callable[..., Any] = gateway_requests.HttpClient.request

    async def request(self: Any, method: str, url: Any, **rest: Any) -> Any:
        path = urlsplit(str(url)).path
        is_it = method.upper() == wanted and path.startswith("/v1/payouts")
        if is_it and when == "before":
            die()
        answer = await ask(self, method, url, **rest)
        if is_it and when == "after":
            die()
        return answer

    gateway_requests.HttpClient.request = request  # type: ignore[method-assign]


async def main(*where: str) -> None:
    async with parts_of(installation.settings_from(os.environ, database_pool_size=2)) as parts:
        if where:
            when, step = where
            end_at(when, step, parts.sessions.kw["bind"].sync_engine)
        await sending.send_due(parts.sessions, parts.gateway)
