"""A reverser that kills itself: `python -m tests.payouts.killed_reverser [after|before STEP]`.

Steps: lease, intent, outcome (their COMMIT) and reversal (the call to Stripe). Without a step it
reverses all that is due.
"""

import asyncio
import os
import sys

from marketplace import installation
from marketplace.app import parts_of
from marketplace.payouts import reversing
from tests.payouts import killed_sender

REVERSALS = "/v1/transfers/[^/]+/reversals"


async def main(*where: str) -> None:
    async with parts_of(installation.settings_from(os.environ, database_pool_size=2)) as parts:
        if where:
            when, step = where
            engine = parts.sessions.kw["bind"].sync_engine
            if step == "reversal":
                killed_sender.end_at_call(when, "POST", REVERSALS, killed_sender.die)
            else:
                killed_sender.end_at(when, step, killed_sender.die, engine)
        await reversing.reverse_due(parts.sessions, parts.gateway)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
