"""The story's second half: days pass, the job closes, people are paid, takes are delivered, and
everything is looked at once more from outside.
"""

import asyncio
import hashlib
import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from marketplace.demo.cast import Performer, Refused, Work, until
from marketplace.demo.outcome import Line, money
from marketplace.demo.stage import PlayBroke
from marketplace.demo.story import Story
from marketplace.demo.troupe import LEFT, REFUSED, SILENT

# How long an undecided take, or the pay of a claim that expired, waits for a person.
DECISION_WITHIN = timedelta(hours=72)
PAYDAY_WEEKDAY, PAYDAY_HOUR = 0, 6


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


async def pay(story: Story) -> None:
    """The weekly run: drafted by the scheduler, approved by a person, sent to Stripe."""
    story.tell.chapter("Payday")
    await _refuse_own_approval(story)
    story.tell.busy("it becomes Monday")
    await story.stage.clock.move_to(_next_payday(await story.stage.clock.now()))
    # The scheduler would do both within half a minute; the demo does not wait for it.
    for sweep in ("funds", "payout_runs"):
        await story.stage.command("sweep", sweep)
    await until("the weekly run is drafted", lambda: _drafted_runs(story))
    story.runs = await _drafted_runs(story)
    for run in story.runs:
        seen = await story.finn.get(f"/v1/payout-runs/{run['id']}")
        await story.fay.post(f"/v1/payout-runs/{run['id']}/approve")
        story.tell.say(
            f"The scheduler drafts the run of {run['slot_at']}: {seen['payouts']} payouts, "
            f"{money(seen['amount_minor'])}. Finn looks at it, Fay approves it."
        )
    story.tell.busy("payouts are sent")
    payouts = await until("all payouts are paid", lambda: _paid_payouts(story))
    story.outcome.transfers = await _transfers(story, {each["destination"] for each in payouts})
    sent = sum(transfer["amount_minor"] for transfer in story.outcome.transfers)
    story.tell.say(
        f"Stripe confirms {len(story.outcome.transfers)} transfers, {money(sent)} in all."
    )


async def _refuse_own_approval(story: Story) -> None:
    drafted = await story.finn.post("/v1/payout-runs", {"currency": story.troupe.currency})
    path = f"/v1/payout-runs/{drafted['id']}"
    try:
        await story.finn.post(f"{path}/approve")
    except Refused as refused:
        story.tell.say(
            f"Finn drafts a run by hand and tries to approve it himself: {refused.status} "
            f"{refused.code}. He discards it."
        )
    else:
        raise PlayBroke("a payout run was approved by the one who prepared it")
    await story.finn.post(f"{path}/discard", {"reason": "The weekly run will do."})


def _next_payday(now: datetime) -> datetime:
    payday = now.replace(hour=PAYDAY_HOUR, minute=0, second=1, microsecond=0)
    payday += timedelta(days=(PAYDAY_WEEKDAY - now.weekday()) % 7)
    return payday if payday > now else payday + timedelta(days=7)


async def _drafted_runs(story: Story) -> list[Any]:
    """More than one if a Monday passed while people worked."""
    runs = await story.finn.pages("/v1/payout-runs")
    return [run for run in runs if run["state"] == "draft" and run["prepared_by"] is None]


async def _paid_payouts(story: Story) -> list[Any]:
    """Our performers' payouts once all of them are paid; nothing before."""
    ours = {performer.id for performer in story.troupe.performers}
    payouts = [
        payout
        for run in story.runs
        for payout in await story.finn.pages(f"/v1/payout-runs/{run['id']}/payouts")
        if payout["performer_id"] in ours
    ]
    for payout in payouts:
        if payout["state"] in {"held", "refused"}:
            raise PlayBroke(f"a payout is {payout['state']}: {payout['state_reason']}")
    return payouts if all(payout["state"] == "paid" for payout in payouts) else []


async def _transfers(story: Story, destinations: set[str]) -> list[dict[str, Any]]:
    """Every transfer to our performers, as Stripe itself has it."""
    variables = story.stage.variables
    found: list[dict[str, Any]] = []
    async with httpx.AsyncClient(
        base_url=variables["STRIPE_API_BASE"],
        headers={"Authorization": f"Bearer {variables['STRIPE_API_KEY']}"},
        trust_env=False,
    ) as http:
        query = {"limit": "100"}
        while True:
            page = (await http.get("/v1/transfers", params=query)).raise_for_status().json()
            found += page["data"]
            if not page["has_more"]:
                break
            query["starting_after"] = page["data"][-1]["id"]
    return [
        {
            "id": transfer["id"],
            "amount_minor": transfer["amount"] - transfer["amount_reversed"],
            "currency": transfer["currency"].upper(),
            "destination": transfer["destination"],
        }
        for transfer in found
        if transfer["destination"] in destinations
    ]


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
    outcome.earned_minor = sum(earned)
    outcome.reported_minor = await _reported(story)
    balance = await story.fay.get("/v1/reports/trial-balance")
    outcome.ledger = {each["currency"]: each["sum_minor"] for each in balance["totals"]}
    outcome.invariants = json.loads(
        (await story.stage.command("verify", "--json")).splitlines()[-1]
    )
    outcome.counts = _counts(story)
    good = sum(found == "ok" for found in outcome.invariants.values())
    story.tell.say(
        f"Ana reads that {money(earned[0])} are hers, and each line of it.",
        f"Finance reads the payout report: {money(outcome.reported_minor)}; the trial balance sums "
        f"to {', '.join(money(each, name) for name, each in outcome.ledger.items())}.",
        f"`marketplace verify`: {good} of {len(outcome.invariants)} invariants hold.",
    )


async def _earned(performer: Performer) -> int:
    """The total a performer reads, after checking that their lines sum to it and are all paid."""
    totals = (await performer.get("/v1/earnings"))["items"]
    lines = await performer.pages("/v1/earnings/lines")
    total = sum(each["paid_minor"] for each in totals)
    paid = sum(line["pay_minor"] for line in lines if line["status"] == "paid")
    if total != paid:
        raise PlayBroke(f"{performer.name} reads {money(total)}, in lines {money(paid)}")
    return int(total)


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
