"""A sender that kills itself: `forked(world, "tests.bank.killed_sender", …)`, [after|before STEP].

Steps: lease, intent, outcome (their COMMIT), payout (the call to Stripe) and look (at what is on its
way). Without a step it sends all that is due.
"""

import os
from urllib.parse import urlsplit

from marketplace import installation
from marketplace.app import parts_of
from marketplace.bank import sending
from tests.payouts.killed_sender import die, end_at_call, end_at_commit

COMMITS = ("lease", "intent", "outcome")
CALLS = {"payout": "POST", "look": "GET"}


def is_payout(url: str) -> bool:
    return urlsplit(url).path.startswith("/v1/payouts")


async def main(*where: str) -> None:
    async with parts_of(installation.settings_from(os.environ, database_pool_size=2)) as parts:
        if where:
            when, step = where
            if step in CALLS:
                end_at_call(when, CALLS[step], die, is_payout)
            else:
                engine = parts.sessions.kw["bind"].sync_engine
                end_at_commit(when, COMMITS.index(step) + 1, die, engine)
        await sending.send_due(parts.sessions, parts.gateway)
