"""A sender that kills itself: `python -m tests.payouts.killed_sender [after|before STEP]`.

Steps: lease, intent, outcome (their COMMIT) and transfer (the call to Stripe). Without a step it
sends all that is due.
"""

import asyncio
import os
import signal
import sys
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from marketplace import installation
from marketplace.app import parts_of
from marketplace.payouts import sending
from marketplace.stripe_api import gateway_requests

COMMITS = ("lease", "intent", "outcome")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(when: str, step: str, engine: sa.Engine) -> None:
    if step == "transfer":
        _die_at_call(when)
    else:
        _die_at_commit(when, COMMITS.index(step) + 1, engine)


def _die_at_commit(when: str, which: int, engine: sa.Engine) -> None:
    seen = {"before": 0, "after": 0}

    def count(moment: str) -> None:
        seen[moment] += 1
        if moment == when and seen[moment] == which:
            die()

    # Before: everything was sent but COMMIT itself. After: the database has answered it.
    sa.event.listen(engine, "commit", lambda _connection: count("before"))
    sa.event.listen(Session, "after_commit", lambda _session: count("after"))


def _die_at_call(when: str) -> None:
    ask = gateway_requests.HttpClient.request

    async def request(self: Any, method: str, url: Any, **rest: Any) -> Any:
        is_transfer = method.upper() == "POST" and str(url).endswith("/v1/transfers")
        if is_transfer and when == "before":
            die()
        answer = await ask(self, method, url, **rest)
        if is_transfer:
            die()
        return answer

    gateway_requests.HttpClient.request = request  # type: ignore[method-assign]


async def main(*where: str) -> None:
    async with parts_of(installation.settings_from(os.environ, database_pool_size=2)) as parts:
        if where:
            when, step = where
            die_at(when, step, parts.sessions.kw["bind"].sync_engine)
        await sending.send_due(parts.sessions, parts.gateway)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
