"""Payday, and not all goes well: an account is restricted, a reply of Stripe's gets lost, a transfer is
taken back. The payout report says why each payout stands where it does.
"""

from datetime import datetime, timedelta
from typing import Any

import httpx

from marketplace.demo.cast import Refused, until
from marketplace.demo.outcome import money
from marketplace.demo.stage import PlayBroke
from marketplace.demo.story import Story

PAYDAY_WEEKDAY, PAYDAY_HOUR = 0, 6


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
    await _make_trouble(story)
    for run in story.runs:
        seen = await story.finn.get(f"/v1/payout-runs/{run['id']}")
        await story.fay.post(f"/v1/payout-runs/{run['id']}/approve")
        story.tell.say(
            f"The scheduler drafts the run of {run['slot_at']}: {seen['payouts']} payouts, "
            f"{money(seen['amount_minor'])}. Finn looks at it, Fay approves it."
        )
    story.tell.busy("payouts are sent")
    payouts = await until("all payouts are paid or held", lambda: _done_payouts(story))
    await _take_one_back(story, payouts)
    story.outcome.transfers = await _transfers(story, {each["destination"] for each in payouts})
    sent = sum(transfer["amount_minor"] for transfer in story.outcome.transfers)
    story.tell.say(
        f"Stripe confirms {len(story.outcome.transfers)} transfers that stay, {money(sent)} in all."
    )
    await _explain(story)


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


async def _our_payouts(story: Story) -> list[Any]:
    ours = {performer.id for performer in story.troupe.performers}
    return [
        payout
        for run in story.runs
        for payout in await story.finn.pages(f"/v1/payout-runs/{run['id']}/payouts")
        if payout["performer_id"] in ours
    ]


async def _make_trouble(story: Story) -> None:
    """Stripe restricts an account after it was drafted, and loses its first reply."""
    await story.stage.steer_stripe(
        "POST", "faults", {"method": "POST", "path": "^/v1/transfers$", "kind": "apply_then_drop"}
    )
    others = [
        each
        for each in await _our_payouts(story)
        if each["performer_id"] != story.troupe.performers[0].id
    ]
    if others:
        path = f"accounts/{others[0]['destination']}/capabilities"
        await story.stage.steer_stripe("PUT", path, {"transfers": "inactive"})


async def _done_payouts(story: Story) -> list[Any]:
    """Our performers' payouts once all of them are paid or held; nothing before."""
    payouts = await _our_payouts(story)
    for payout in payouts:
        if payout["state"] == "refused":
            raise PlayBroke(f"a payout is refused: {payout['state_reason']}")
    return payouts if all(payout["state"] in {"paid", "held"} for payout in payouts) else []


async def _take_one_back(story: Story, payouts: list[Any]) -> None:
    """One that simply went through; it is owed again, and paid once the account is another one."""
    paid = [each for each in payouts if each["state"] == "paid"]
    paid.sort(key=lambda each: each["state_reason"] is None)
    if not paid:
        return
    path = f"/v1/payouts/{paid[-1]['id']}"
    asked = await story.finn.post(
        f"{path}/reversals",
        {
            "amount_minor": paid[-1]["amount_minor"],
            "cause": "wrong_destination",
            "reason": "The account turned out not to be theirs.",
        },
    )
    await story.fay.post(f"/v1/reversals/{asked['id']}/approve")

    async def is_back() -> bool:
        return bool((await story.fay.get(path))["state"] == "reversed")

    await until("the transfer came back", is_back)
    story.tell.say(
        f"Finn has {money(paid[-1]['amount_minor'])} taken back that went to a wrong account; Fay "
        "approves. It is owed again."
    )


async def _explain(story: Story) -> None:
    """What finance reads of each payout that did not simply go through."""
    names = {performer.id: performer.name for performer in story.troupe.performers}
    for run in story.runs:
        report = await story.fay.get(f"/v1/reports/payout-runs/{run['id']}")
        told = {
            line["payout_id"]: line
            for line in report["lines"]
            if line["status_reason"] and line["performer_id"] in names
        }
        for line in told.values():
            name = names[line["performer_id"]]
            story.tell.say(f"The report: {name} is {line['status']}. {line['status_reason']}")


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
        and transfer["amount"] > transfer["amount_reversed"]
    ]
