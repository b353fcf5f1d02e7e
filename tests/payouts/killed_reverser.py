"""A reverser that kills itself: `forked(world, "tests.payouts.killed_reverser", …)`, [after|before STEP].

Steps: lease, intent, outcome (their COMMIT) and reversal (the call to Stripe). Without a step it
reverses all that is due.
"""

import os
from urllib.parse import urlsplit

from marketplace import installation
from marketplace.app import parts_of
from marketplace.payouts import reversing
from tests.payouts import killed_sender

COMMITS = ("lease", "intent", "outcome")
PATH_ENDS = "/reversals"


async def main(*where: str) -> None:
    async with parts_of(installation.settings_from(os.environ, database_pool_size=2)) as parts:
        if where:
            when, step = where
            engine = parts.sessions.kw["bind"].sync_engine
            if step == "reversal":
                killed_sender.end_at_call(
                    when,
                    "POST",
                    killed_sender.die,
                    lambda url: urlsplit(url).path.endswith(PATH_ENDS),
                )
            else:
                killed_sender.end_at_commit(
                    when, COMMITS.index(step) + 1, killed_sender.die, engine
                )
        await reversing.reverse_due(parts.sessions, parts.gateway)
