"""The story's first half: the platform opens, money comes in, performers race, work and are reviewed."""

import argparse
from typing import Any

from marketplace.demo.cast import SOMEWHERE, Api, Person, Refused, Take, join, until
from marketplace.demo.outcome import FEE_BASIS_POINTS, Line, money, pay_minor
from marketplace.demo.stage import PlayBroke, Stage, Teller
from marketplace.demo.story import Story
from marketplace.demo.troupe import (
    ACCEPTED,
    CLAIMS_AT_ONCE,
    LEFT,
    REFUSED,
    RETAKE,
    SILENT,
    Pace,
    add,
    assemble,
    claim,
    hand_in,
    name_of,
    race,
    review,
    work_together,
)
from marketplace.demo.troupe import audition as audition_together

CURRENCY = "USD"
MINIMUM_RATE, RATE, RAISED_RATE, CUT_RATE = 1_500, 7_400, 8_000, 6_000
PREP_CAP, PERFORM_CAP, RETAKES = 600, 2_400, 1
TOPUP_MINOR = 5_000
USUAL_DEPOSIT_MINOR = 100_000
# A rise takes effect a minute after it is announced.
UNTIL_A_RISE_SECONDS = 61
UNTIL_SILENCE_IS_HEARD_SECONDS = 120
SPECIAL = (RETAKE, REFUSED, LEFT, SILENT)

PROFILE = {
    "languages": ["en-US"],
    "skills": ["improv"],
    "accents": ["midwest"],
    "time_zone": "America/Chicago",
    "work_country": "US",
}
SCENES = (
    ("The lost letter", "A quiet kitchen, late evening. A drawer sticks.", "sadness"),
    ("The last train", "A platform in the rain. You had given them up.", "happiness"),
)


async def open_platform(
    standing: Stage, tell: Teller, api: Api, takes: list[Take], options: argparse.Namespace
) -> Story:
    tell.chapter("The platform opens")
    troupe = await assemble(
        await standing.command("invite-operator"),
        options.performers,
        api=api,
        tell=tell,
        time=standing.clock,
        pace=Pace(),
        takes=takes,
        currency=CURRENCY,
    )
    operator = troupe.operator
    await operator.set_minimum_rate(CURRENCY, MINIMUM_RATE)
    client = await operator.post("/v1/clients", {"name": "Acme Voice Lab", "currency": CURRENCY})
    member = await join(api, client["invite_code"], "Acme Voice Lab")
    scopes = ["jobs:read", "jobs:write", "recordings:read", "wallet:read", "wallet:write"]
    key = await member.post(
        "/v1/api-keys", {"name": "pipeline", "scopes": [*scopes, "events:read"]}
    )
    tell.say(
        "Acme Voice Lab joins as a client, Ravi and Reviewer 2 review, Finn and Fay are finance.",
        f"No job may pay less than {money(MINIMUM_RATE)} per hour.",
    )
    return Story(
        stage=standing,
        tell=tell,
        tasks=options.tasks,
        # What people bring along may come from a phone; ours passes the studio's gates.
        tier="phone" if options.audio else "studio",
        troupe=troupe,
        acme=Person(api, "Acme Voice Lab", key["token"]),
        finn=await operator.invite("finance", "Finn"),
        fay=await operator.invite("finance", "Fay"),
    )


async def fund(story: Story) -> None:
    story.tell.chapter("Money comes in")
    topup = await story.finn.post("/v1/topups", {"amount_minor": TOPUP_MINOR, "currency": CURRENCY})
    # Publishing reserves the worst case, and the rise to come its difference.
    dearest = story.tasks * _worst_case(RAISED_RATE)
    story.deposit_minor = max(USUAL_DEPOSIT_MINOR, -(-dearest // 10_000) * 10_000)
    deposit = await story.acme.post(
        "/v1/wallet/deposits", {"amount_minor": story.deposit_minor, "success_url": SOMEWHERE}
    )
    await story.troupe.api.fill_in(deposit["checkout_url"], "card")

    async def arrived() -> bool:
        wallet = await story.acme.get("/v1/wallet")
        state = (await story.finn.get(f"/v1/topups/{topup['id']}"))["state"]
        return bool(wallet["balance_minor"] == story.deposit_minor and state == "succeeded")

    await until("the money arrives", arrived)
    story.tell.say(
        f"Finn brings {money(TOPUP_MINOR)} of the platform's own into its Stripe balance.",
        f"Acme pays {money(story.deposit_minor)} by card on Stripe's page; a webhook credits "
        "the wallet.",
    )


def _worst_case(rate_minor_per_hour: int) -> int:
    """What one role can cost its client at most."""
    pay = pay_minor(PREP_CAP + PERFORM_CAP * (1 + RETAKES), rate_minor_per_hour)
    return pay + (2 * pay * FEE_BASIS_POINTS + 10_000) // 20_000


async def audition(story: Story) -> None:
    story.tell.chapter("Performers audition, and are paid for it")
    decided = await audition_together(story.troupe, PROFILE)
    story.outcome.lines = [
        Line(
            audition=each["id"],
            performer=performer.name,
            why="audition",
            seconds=each["paid_seconds"],
            rate_minor_per_hour=each["rate_minor_per_hour"],
            pay_minor=each["pay_minor"],
        )
        for performer, each in zip(story.troupe.performers, decided, strict=True)
    ]
    first = story.outcome.lines[0]
    story.tell.say(
        f"{name_of(story.troupe.performers)} apply, onboard at Stripe and audition; Ravi vets them.",
        f"Ana's {first.seconds} s at {money(first.rate_minor_per_hour)} per hour pay "
        f"{money(first.pay_minor)}.",
    )


async def publish(story: Story) -> None:
    story.tell.chapter("Acme asks for recordings")
    story.job = await story.acme.post("/v1/jobs", _job(story))
    quote = await story.acme.get(f"/v1/jobs/{story.job['id']}/quote")
    before = (await story.acme.get("/v1/wallet"))["balance_minor"]
    story.job = await story.acme.post(f"/v1/jobs/{story.job['id']}/publish", {})
    wallet = await story.acme.get("/v1/wallet")
    story.tell.say(
        f"{quote['roles']} roles at {money(quote['rate_minor_per_hour'])} per hour plus "
        f"{FEE_BASIS_POINTS / 100:g} % fee: {money(quote['expected_minor'])} expected, "
        f"{money(quote['worst_case_minor'])} at worst.",
        f"Publishing sets the worst case aside: {money(before)} becomes "
        f"{money(wallet['balance_minor'])} free and {money(wallet['reserved_minor'])} reserved.",
    )


def _job(story: Story) -> dict[str, Any]:
    return {
        "title": "Grief and relief, en-US",
        "brief": "Honest, small, improvised. No melodrama.",
        "rate_minor_per_hour": RATE,
        "specification": {
            "elicitation": "improv_solo",
            "labels": {"scheme": "big6_neutral"},
            "speakers": {"languages": ["en-US"], "skills": ["improv"]},
            "audio": {"tier": story.tier},
            "licence": {
                "version": "acme-emotion-1",
                "text": "Acme Voice Lab may train and evaluate emotion recognition with the takes.",
                "allowed_uses": ["train_emotion_recognition", "evaluation"],
            },
        },
        "prep_seconds_cap": PREP_CAP,
        "perform_seconds_cap": PERFORM_CAP,
        "retakes_max": RETAKES,
        "tasks": [_task(number) for number in range(story.tasks)],
    }


def _task(number: int) -> dict[str, Any]:
    title, brief, emotion = SCENES[number % len(SCENES)]
    role = {
        "name": "The one who waits",
        "brief": "Begin before words.",
        "target": {"emotion": emotion},
    }
    return {"scenario": {"title": title, "brief": brief}, "roles": [role]}


async def work(story: Story) -> None:
    troupe = story.troupe
    fates = outcomes(story.tasks, len(troupe.performers))
    for number, size in enumerate(rounds(story.tasks, len(troupe.performers))):
        first = len(troupe.works)
        if number == 0:
            await _race(story, fates, size)
        while (made := len(troupe.works) - first) < size:
            story.tell.busy("performers claim")
            claiming = troupe.performers[: size - made]
            claimed = await claim(troupe, story.job["id"], claiming)
            add(troupe, claimed, fates[len(troupe.works) :][: len(claimed)])
        await _perform(story, first)
    await hand_in(troupe, [work for work in troupe.works if work.outcome == LEFT])
    _tell_verdicts(story)


def outcomes(tasks: int, performers: int) -> list[str]:
    """What becomes of each claim, in the order they are made: of every kind as many as fit.

    What nobody reviews and who falls silent come last: their days pass when all else is done.
    """
    if tasks <= len(SPECIAL):
        return [ACCEPTED, *SPECIAL][:tasks]
    each = max(1, min(tasks // 20, performers))
    special = [outcome for outcome in SPECIAL for _ in range(each)]
    return [ACCEPTED] * (tasks - len(special)) + special


def rounds(tasks: int, performers: int) -> list[int]:
    """How many claims are made in each round: nobody may hold more at once."""
    most = CLAIMS_AT_ONCE * performers
    first = (tasks - 1) % most + 1
    return [first] + [most] * ((tasks - first) // most)


async def _race(story: Story, fates: list[str], size: int) -> None:
    story.tell.chapter("The race for a role")
    troupe = story.troupe
    winner = await race(troupe, story.job["id"])
    others = [each for each in troupe.performers if each is not winner.performer][: size - 1]
    story.tell.say(
        f"{len(troupe.performers)} performers claim the same role at the same moment, at two server "
        f"processes: {winner.performer.name} has it, {troupe.counts['race_refused']} get "
        "409 role_taken.",
    )
    works = [winner, *await claim(troupe, story.job["id"], others)]
    add(troupe, works, fates[: len(works)])
    story.tell.say(f"The others take another one; {len(works)} roles are held.")
    await _change_rate(story)


async def _change_rate(story: Story) -> None:
    path = f"/v1/rate-lineages/{story.job['lineage_id']}/rates"
    try:
        cut = {"rate_minor_per_hour": CUT_RATE, "reason": "We would like to pay less."}
        await story.acme.post(path, cut)
    except Refused as refused:
        story.tell.say(
            f"Acme tries to cut the rate to {money(CUT_RATE)} at once: {refused.status} "
            f"{refused.code}, a cut needs 14 days' notice."
        )
    else:
        raise PlayBroke("a rate was cut without notice")
    before = (await story.acme.get("/v1/wallet"))["balance_minor"]
    rise = {"rate_minor_per_hour": RAISED_RATE, "reason": "Good work; we want to keep them."}
    await story.acme.post(path, rise)
    taken = before - (await story.acme.get("/v1/wallet"))["balance_minor"]
    await story.stage.clock.move(UNTIL_A_RISE_SECONDS)
    story.tell.say(
        f"It announces a rise to {money(RAISED_RATE)}: {money(taken)} more are set aside for the "
        f"roles still open; claims already made keep their {money(RATE)}."
    )


async def _perform(story: Story, first: int) -> None:
    troupe = story.troupe
    works = troupe.works[first:]
    await work_together(troupe, works)
    if any(work.falls_silent for work in works):
        await story.stage.clock.move(UNTIL_SILENCE_IS_HEARD_SECONDS)
    await hand_in(troupe, [work for work in works if work.outcome not in {LEFT, SILENT}])
    await review(troupe)


def _tell_verdicts(story: Story) -> None:
    story.tell.chapter("Performing, handing in, reviewing")
    for fate in (ACCEPTED, *SPECIAL):
        works = [work for work in story.troupe.works if work.outcome == fate]
        if works:
            who = works[0].performer.name if len(works) == 1 else f"{len(works)} claims"
            story.tell.say(f"{who}: {fate}{' (later)' if fate in {LEFT, SILENT} else ''}.")
