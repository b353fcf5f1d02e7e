"""`marketplace demo`: the whole story on real parts, spoken over HTTP as its people would.

Two server processes share one port, PostgreSQL and the Stripe sandbox run beside them, and a virtual
clock lets days pass.
"""

import argparse
import asyncio
import json
import os
import sys

from rich.console import Console

from marketplace.demo import beginning, ending, payday, simulation
from marketplace.demo.cast import Api, Refused, Take, takes_in
from marketplace.demo.outcome import table
from marketplace.demo.stage import PlayBroke, Stage, Teller, play, stage, stop_like_ctrl_c
from marketplace.demo.story import Story
from marketplace.installation import InstallationError

PROGRAM = ".venv/bin/python -m marketplace"


def run(options: argparse.Namespace) -> int:
    """Tell the story; the servers stay up afterwards unless `--once`. Answers the exit code."""
    takes = takes_in(options.audio)
    if os.environ.get("STRIPE_API_KEY") and not os.environ.get("STRIPE_API_BASE"):
        raise InstallationError("the demo pays nobody for real: unset STRIPE_API_KEY")
    stop_like_ctrl_c()
    console = Console(stderr=options.json)
    told = False
    try:
        with Teller(console) as tell:
            tell.busy("the parts start")
            with stage(options.data, options.port) as standing:
                story = asyncio.run(play(standing, tell_story(standing, tell, takes, options)))
                told = True
                _conclude(story, console, as_json=options.json)
                if not options.once:
                    _say_how_to_go_on(story)
                    tell.rest()
                    asyncio.run(play(standing, asyncio.Event().wait()))
    except PlayBroke as broke:
        print(f"marketplace: {broke}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 1
    except KeyboardInterrupt:
        if not told:
            raise
    return 1 if story.outcome.problems() else 0


async def tell_story(
    standing: Stage, tell: Teller, takes: list[Take], options: argparse.Namespace
) -> Story:
    api = Api(standing.public_url)
    try:
        story = await beginning.open_platform(standing, tell, api, takes, options)
        await beginning.fund(story)
        await beginning.audition(story)
        await beginning.publish(story)
        await beginning.work(story)
        await ending.let_days_pass(story)
        await ending.close(story)
        await payday.pay(story)
        await ending.deliver(story)
        await ending.account_for(story)
    except Refused as refused:
        raise PlayBroke(f"an unexpected {refused.status} {refused.code}: {refused}") from refused
    finally:
        await api.aclose()
    return story


def _conclude(story: Story, console: Console, *, as_json: bool) -> None:
    problems = story.outcome.problems()
    console.print()
    console.print(table(story.outcome))
    for problem in problems:
        console.print(f"does not add up: {problem}", style="bold red", highlight=False)
    if not problems:
        console.print("Everything adds up, at Stripe too.", style="bold green")
    if as_json:
        print(json.dumps(story.outcome.as_json()), flush=True)  # noqa: T201 - the command's answer


def _say_how_to_go_on(story: Story) -> None:
    data, troupe = story.stage.data, story.troupe
    story.tell.chapter("It stays up until Ctrl-C")
    story.tell.say(
        f"The API       {story.stage.public_url}  (its description: /docs)",
        f"Its Stripe    {story.stage.clock.stripe_api_base}  (a sandbox: nothing real)",
    )
    story.tell.say(
        "As Acme's engineer (the README goes on from here):",
        f"export MARKETPLACE_URL={story.stage.public_url}",
        f"export MARKETPLACE_TOKEN={story.acme.token}",
    )
    people = (troupe.operator, troupe.performers[0], *troupe.reviewers, story.finn, story.fay)
    story.tell.say(*(f"{person.name:13} {person.token}" for person in people))
    transfer = story.outcome.transfers[0]["id"] if story.outcome.transfers else "ID"
    story.tell.say(
        f"Follow a payout to the second: {PROGRAM} explain {transfer} --data {data}",
        f"Let time pass: {PROGRAM} clock --advance 1d --data {data}",
    )


def simulate(options: argparse.Namespace) -> int:
    """Lend the cast to a client's own job: see `simulation`. Answers the exit code."""
    stop_like_ctrl_c()
    try:
        return simulation.run(options)
    except PlayBroke as broke:
        print(f"marketplace: {broke}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 1
