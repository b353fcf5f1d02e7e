"""A sender of refunds that kills itself: `forked(world, "tests.funding.killed_refunder", …)`, [after|before STEP].

Steps: lease, outcome (their COMMIT), refund and look_up (the calls to Stripe). Without a step it asks
for all that is due.
"""

import os
from urllib.parse import urlsplit

from marketplace import installation
from marketplace.app import parts_of
from marketplace.funding import refund_sending
from tests.payouts.killed_sender import die, end_at_call, end_at_commit

COMMITS = ("lease", "outcome")
CALLS = {"refund": "POST", "look_up": "GET"}


async def main(*where: str) -> None:
    async with parts_of(installation.settings_from(os.environ, database_pool_size=2)) as parts:
        if where:
            when, step = where
            if step in CALLS:
                end_at_call(when, CALLS[step], die, lambda url: urlsplit(url).path == "/v1/refunds")
            else:
                engine = parts.sessions.kw["bind"].sync_engine
                end_at_commit(when, COMMITS.index(step) + 1, die, engine)
        await refund_sending.send_due(parts.sessions, parts.gateway)
