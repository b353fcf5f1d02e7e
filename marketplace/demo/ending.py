"""The story's second half but for payday: days pass, the job closes, takes are delivered, and
everything is looked at once more from outside.
"""

import asyncio
import hashlib
import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from marketplace.demo.cast import Performer, Refused, Work, until
from marketplace.demo.outcome import Line, money
from marketplace.demo.stage import PlayBroke
from marketplace.demo.story import Story
from marketplace.demo.troupe import LEFT, REFUSED, SILENT

# How long an undecided take, or the pay of a claim that expired, waits for a person.
DECISION_WITHIN = timedelta(hours=72)


async def let_days_pass(story: Story) -> None:
    """Silent claims expire, unreviewed takes are accepted, and all time is paid."""
    story.tell.busy("days pass")
    clock, works = story.stage.clock, story.troupe.works
    silent = [work for work in works if work.outcome == SILENT]
    if silent:
        deadlines = [(await work.refresh())["deadline"] for work in silent]
        await clock.move_to(max(map(datetime.fromisoformat, deadlines)))
        await asyncio.gather(*(_reaches(work, "expired") for work in silent))
    await clock.move(int(DECISION_WITHIN.total_seconds()) + 60)
    settled = [work for work in works if work.outcome != SILENT]
    await asyncio.gather(*(_reaches(work, "settled") for work in settled))
    story.outcome.lines += await asyncio.gather(*map(_line, works))
    _tell_of_days(story)


async def _reaches(work: Work, state: str) -> None:
    async def reached() -> bool:
        return bool((await work.refresh())["state"] == state)

    await until(f"a claim is {state}", reached)


async def _line(work: Work) -> Line:
    pay = await until("a claim's pay is decided", work.pay)
    return Line(
        claim=work.claim["id"],
        performer=work.performer.name,
        why=work.outcome,
        seconds=pay["seconds"],
        rate_minor_per_hour=pay["rate_minor_per_hour"],
        pay_minor=pay["pay_minor"],
    )


def _tell_of_days(story: Story) -> None:
    silent = [line for line in story.outcome.lines if line.why == SILENT]
    for line in silent[:1]:
        story.tell.say(
            f"{line.performer} fell silent: a day later the claim expires, and the "
            f"{line.seconds} s worked pay {money(line.pay_minor)}."
        )
    if any(work.outcome == LEFT for work in story.troupe.works):
        story.tell.say("After 72 hours what nobody reviewed is accepted by itself.")


async def close(story: Story) -> None:
    path = f"/v1/jobs/{story.job['id']}"
    await story.acme.post(f"{path}/close", {"reason": "We have what we need."})

    async def closed() -> Any:
        job = await story.acme.get(path)
        return job if job["state"] == "closed" else None

    await until("the job is closed", closed)
    wallet = await story.acme.get("/v1/wallet")
    if wallet["reserved_minor"]:
        raise PlayBroke(f"{money(wallet['reserved_minor'])} are still set aside for a closed job")
    story.outcome.spent_minor = story.deposit_minor - wallet["balance_minor"]
    story.tell.say(
        f"Acme closes the job; what is left of the reserves returns: {money(wallet['balance_minor'])} "
        f"are free. It spent {money(story.outcome.claims_minor)} on pay and "
        f"{money(story.outcome.spent_minor - story.outcome.claims_minor)} on fees."
    )


async def deliver(story: Story) -> None:
    """Acme downloads what was accepted; a withdrawn consent stops a link at once."""
    story.tell.chapter("Delivery")
    story.tell.busy("Acme downloads")
    takes = await story.acme.pages(f"/v1/jobs/{story.job['id']}/recordings")
    await asyncio.gather(*(_download(story, take) for take in takes))
    story.troupe.counts["downloads"] = len(takes)
    story.tell.say(
        f"Acme downloads {len(takes)} accepted takes through links that expire; every SHA-256 is "
        "as declared."
    )
    given = {work.claim["consent_grant_id"]: work.performer for work in story.troupe.works}
    # Ana if one of her takes was accepted.
    order = {performer: number for number, performer in enumerate(story.troupe.performers)}
    consents = sorted(
        (take["consent"]["id"] for take in takes), key=lambda each: order[given[each]]
    )
    if consents:
        take = next(take for take in takes if take["consent"]["id"] == consents[0])
        await _withdraw(story, given[consents[0]], take)


async def _link(story: Story, take: dict[str, Any]) -> str:
    """Without its address: the path on our own servers."""
    link = await story.acme.post(f"/v1/recordings/{take['id']}/links")
    path: str = urlsplit(link["url"]).path
    return path


async def _download(story: Story, take: dict[str, Any]) -> None:
    answer = await story.troupe.api.send("GET", await _link(story, take))
    if hashlib.sha256(answer.content).hexdigest() != take["sha256"]:
        raise PlayBroke(f"recording {take['id']} arrived with other bytes than were declared")


async def _withdraw(story: Story, performer: Performer, take: dict[str, Any]) -> None:
    link = await _link(story, take)
    await performer.post(f"/v1/consents/{take['consent']['id']}/withdraw", {})
    try:
        await story.troupe.api.send("GET", link)
    except Refused as refused:
        if refused.status != 410:
            raise
        story.tell.say(
            f"{performer.name} withdraws a consent: the link to that take now answers "
            f"{refused.status}. The pay stays paid."
        )
    else:
        raise PlayBroke("a take was downloaded after its consent was withdrawn")


async def account_for(story: Story) -> None:
    """What performers and finance read, and what `verify` says of the whole database."""
    story.tell.chapter("Everybody looks at the books")
    story.tell.busy("the books are read")
    outcome = story.outcome
    performers = story.troupe.performers
    earned = await asyncio.gather(*(_earned(performer) for performer in performers))
    outcome.earned_minor = sum(sum(each) for each in earned)
    outcome.owed_minor = sum(owed for _, owed in earned)
    outcome.reported_minor = await _reported(story)
    balance = await story.fay.get("/v1/reports/trial-balance")
    outcome.ledger = {each["currency"]: each["sum_minor"] for each in balance["totals"]}
    outcome.invariants = json.loads(
        (await story.stage.command("verify", "--json")).splitlines()[-1]
    )
    outcome.counts = _counts(story)
    good = sum(found == "ok" for found in outcome.invariants.values())
    story.tell.say(
        f"Ana reads that {money(earned[0][0])} are paid, and each line of it.",
        f"Finance reads the payout report: {money(outcome.reported_minor)}; the trial balance sums "
        f"to {', '.join(money(each, name) for name, each in outcome.ledger.items())}.",
        f"`marketplace verify`: {good} of {len(outcome.invariants)} invariants hold.",
    )


async def _earned(performer: Performer) -> tuple[int, int]:
    """What a performer reads as paid, and as still owed, after checking that their lines agree."""
    totals = (await performer.get("/v1/earnings"))["items"]
    lines = await performer.pages("/v1/earnings/lines")
    earned = sum(each["earned_minor"] for each in totals)
    paid = sum(each["paid_minor"] for each in totals)
    for what, total, among in (("earned", earned, None), ("paid", paid, "paid")):
        summed = sum(
            line["pay_minor"]
            for line in lines
            # What came back is earned once, and is owed again in a line of its own.
            if among in {None, line["status"]} and line["source_type"] != "reversal"
        )
        if total != summed:
            raise PlayBroke(
                f"{performer.name} reads {money(total)} {what}, in lines {money(summed)}"
            )
    return paid, earned - paid


async def _reported(story: Story) -> int:
    """What the payout reports say was paid to our performers."""
    ours = {performer.id for performer in story.troupe.performers}
    reports = [await story.fay.get(f"/v1/reports/payout-runs/{run['id']}") for run in story.runs]
    return sum(
        line["net_minor"]
        for report in reports
        for line in report["lines"]
        if line["performer_id"] in ours and line["status"] == "paid"
    )


def _counts(story: Story) -> dict[str, int]:
    troupe = story.troupe
    fates = Counter(work.outcome for work in troupe.works)
    return {
        "performers": len(troupe.performers),
        "tasks": story.tasks,
        "auditions": sum(line.audition is not None for line in story.outcome.lines),
        "claims": len(troupe.works),
        "claims_refused_in_race": troupe.counts["race_refused"],
        "claims_refused_later": troupe.counts["claims_refused"],
        "submissions": sum(len(work.submissions) for work in troupe.works),
        "accepted": len(troupe.works) - fates[REFUSED] - fates[SILENT],
        "accepted_by_itself": fates[LEFT],
        "retakes": troupe.counts["retakes"],
        "refused": fates[REFUSED],
        "expired": fates[SILENT],
        "downloads": troupe.counts["downloads"],
        "payout_runs": len(story.runs),
        "transfers": len(story.outcome.transfers),
    }
