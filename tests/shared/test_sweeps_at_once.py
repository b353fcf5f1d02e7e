"""Any number of processes sweep at once: what is due happens once, and nobody complains."""

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from marketplace.scheduler import SWEEPS
from tests.world import DAY, SELF_LABELS, TAKE, Client, Json, Person, World, upload

AT_ONCE = 4
SEVERAL = 3
SOMEWHERE = "https://acme.example/wallet"
REASON = "an hour of silence, twice"


def claims(world: World) -> tuple[Client, Person, list[Json]]:
    """Ana holds three roles of Acme's job."""
    acme = world.client(deposit_minor=100_000)
    ana = world.performer()
    job = world.published_job(acme, tasks=SEVERAL)
    return acme, ana, [world.claim(ana, job) for _ in range(SEVERAL)]


def silence(world: World) -> None:
    acme = world.client(deposit_minor=100_000)
    job = world.published_job(acme, tasks=SEVERAL)
    for number in range(SEVERAL):
        performer = world.performer(f"Performer {number}")
        claim = world.claim(performer, job)
        performer.post(f"/v1/claims/{claim['id']}/time", {"activity": "prep"})
    world.advance(600)


def deadlines(world: World) -> None:
    claims(world)
    world.advance(2 * DAY)


def uploads(world: World) -> None:
    _, ana, held = claims(world)
    for claim in held:
        upload(ana, f"/v1/claims/{claim['id']}/recordings", TAKE.read_bytes())


def leftovers(world: World) -> None:
    folder = Path(world.settings.storage_url) / ".unfinished"
    folder.mkdir(parents=True)
    for number in range(SEVERAL):
        cut_off = folder / str(number)
        cut_off.touch()
        os.utime(cut_off, (0, 0))


def handed_in(world: World) -> None:
    _, ana, held = claims(world)
    for claim in held:
        world.work(ana, claim, "perform", 60)
        takes = {"recording_ids": [world.take(ana, claim)], "self_labels": SELF_LABELS}
        ana.post(f"/v1/claims/{claim['id']}/submissions", takes)


def unreviewed(world: World) -> None:
    handed_in(world)
    world.sweep("reviews")
    world.advance(4 * DAY)


def withdrawn(world: World) -> None:
    _, ana, held = claims(world)
    for claim in held:
        ana.post(f"/v1/consents/{claim['consent_grant_id']}/withdraw", {})


def released(world: World) -> tuple[Client, list[Json]]:
    acme, ana, held = claims(world)
    for claim in held:
        world.work(ana, claim, "perform", 60)
        ana.post(f"/v1/claims/{claim['id']}/release", {})
    return acme, held


def unpaid(world: World) -> None:
    released(world)
    world.advance(4 * DAY)


def withheld(world: World) -> None:
    _, ended = released(world)
    ravi, rosa = world.reviewer("Ravi"), world.reviewer("Rosa")
    for claim in ended:
        wanted = {"ground": "no_work", "reason": REASON}
        proposed = ravi.post(f"/v1/claims/{claim['id']}/withholdings", wanted)
        decision = {"confirm": True, "reason": REASON}
        rosa.post(f"/v1/withholdings/{proposed['id']}/decision", decision)
    world.advance(31 * DAY)


def auditions(world: World) -> None:
    operator = world.operator()
    rate = {"currency": "USD", "rate_minor_per_hour": 3_600, "reason": "what an hour is worth"}
    operator.post("/v1/audition-rates", rate)
    for number in range(SEVERAL):
        applicant = world.performer(f"Applicant {number}", vetted=False)
        offer = {"brief": "Two minutes.", "currency": "USD", "seconds_cap": 600}
        operator.post(f"/v1/performers/{applicant.id}/auditions", offer)
        applicant.post("/v1/audition/start")
    world.advance(30 * DAY)


def closing(world: World) -> None:
    acme = world.client(deposit_minor=100_000)
    for number in range(SEVERAL):
        performer = world.performer(f"Performer {number}")
        job = world.published_job(acme, title=f"Job {number}")
        claim = world.claim(performer, job)
        acme.post(f"/v1/jobs/{job['id']}/close", {})
        performer.post(f"/v1/claims/{claim['id']}/release", {})


def paid_deposits(world: World) -> None:
    acme = world.client()
    for number in range(SEVERAL):
        asked = {"amount_minor": 5_000 + number, "success_url": SOMEWHERE}
        deposit = acme.post("/v1/wallet/deposits", asked)
        world.stripe.complete(deposit["checkout_url"], "card")
    world.advance(60)


def told(world: World) -> None:
    paid_deposits(world)
    world.sweep("poll_events")


def topups(world: World) -> None:
    finn = world.finance()
    for number in range(SEVERAL):
        world.stripe.fault("apply_then_drop", path="/v1/topups")
        asked = {"amount_minor": 5_000 + number, "currency": "USD"}
        assert finn.refused("POST", "/v1/topups", asked) == "503 stripe_unavailable"
    world.advance(60)


def refunds(world: World) -> None:
    acme = world.client(deposit_minor=100_000)
    world.advance(3 * DAY)
    world.sweep("funds")
    for number in range(SEVERAL):
        acme.post("/v1/refunds", {"amount_minor": 5_000 + number, "currency": "USD"})


def disputed(world: World) -> None:
    world.capital(world.finance(), 5_000)
    for number in range(SEVERAL):
        acme = world.client(f"Lab {number}", deposit_minor=100_000)
        payment = world.value("SELECT payment_intent_id FROM deposit WHERE client_id = %s", acme.id)
        world.stripe.control("POST", "disputes", payment_intent=payment)


def onboarded(world: World) -> None:
    for number in range(SEVERAL):
        performer = world.performer(f"Performer {number}")
        opened = performer.post("/v1/payout-account", {"return_url": SOMEWHERE})
        world.stripe.complete(opened["onboarding_url"], "complete")
    world.advance(5 * 60)


def unused(world: World) -> None:
    _, ana, held = claims(world)
    for claim in held:
        world.take(ana, claim, content=TAKE.read_bytes())
        ana.post(f"/v1/claims/{claim['id']}/release", {})
    world.advance(31 * DAY)


def pending(world: World) -> None:
    acme = world.client()
    for number in range(SEVERAL):
        world.deposit(acme, 5_000 + number)
    world.advance(3 * DAY)


def owed(world: World) -> None:
    world.capital(world.finance(), 500_000)
    acme = world.client(deposit_minor=100_000)
    ravi = world.reviewer()
    job = world.published_job(acme, tasks=SEVERAL)
    for number in range(SEVERAL):
        performer = world.performer(f"Performer {number}", onboarded=True)
        world.accepted_claim(performer, job, ravi)


def at_the_bank(world: World) -> None:
    """Each performer's account is emptied by Stripe's own schedule."""
    world.stripe.control("PUT", "settings", automatic_payout_after_seconds=DAY)
    approved(world)
    world.sweep("payouts")
    world.advance(DAY)


def withdrawn_money(world: World) -> None:
    finn, fay = world.finance("Finn"), world.finance("Fay")
    world.capital(finn, 500_000)
    for number in range(SEVERAL):
        wanted = {"amount_minor": 5_000 + number, "currency": "USD", "reason": REASON}
        asked = finn.post("/v1/withdrawals", wanted)
        fay.post(f"/v1/withdrawals/{asked['id']}/approve")


def unnamed(world: World) -> None:
    """Stripe did not name the lines of withdrawals with its answers."""
    withdrawn_money(world)
    world.sweep("withdrawals", "stripe_lines")
    world.owner_sql("ALTER TABLE booked_balance_transaction DISABLE TRIGGER USER")
    world.owner_sql("DELETE FROM booked_balance_transaction WHERE net_minor < 0")
    world.owner_sql("ALTER TABLE booked_balance_transaction ENABLE TRIGGER USER")


def payday(world: World) -> None:
    owed(world)
    monday = (world.now + timedelta(days=7 - world.now.weekday())).replace(hour=6, minute=1)
    world.advance_to(monday.replace(second=0, microsecond=0))


def approved(world: World) -> None:
    owed(world)
    run = world.finance("Finn").post("/v1/payout-runs", {"currency": "USD"})
    world.finance("Fay").post(f"/v1/payout-runs/{run['id']}/approve")


def coming_back(world: World) -> None:
    owed(world)
    finn, fay = world.finance("Finn"), world.finance("Fay")
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")
    wanted = {"amount_minor": 123, "cause": "wrong_destination", "reason": "not theirs"}
    for payout in finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]:
        asked = finn.post(f"/v1/payouts/{payout['id']}/reversals", wanted)
        fay.post(f"/v1/reversals/{asked['id']}/approve")


MOVED = "SELECT count(*) FROM audit_event WHERE action = 'moved' AND subject_type = '{}'".format
BOOKED = "SELECT count(*) FROM ledger_transaction WHERE kind = '{}'".format
# What is due, and what of it is counted. Whatever happens is counted exactly `SEVERAL` times.
DUE: dict[str, tuple[Callable[[World], object], str]] = {
    "time": (silence, "SELECT count(*) FROM time_entry WHERE ended_by = 'silence'"),
    "expiry": (deadlines, MOVED("claim") + " AND to_state = 'expired'"),
    "recordings": (uploads, MOVED("recording") + " AND to_state = 'passed'"),
    "reviews": (handed_in, MOVED("submission") + " AND to_state = 'in_review'"),
    "accept": (unreviewed, BOOKED("claim_paid")),
    "unused": (unused, MOVED("recording") + " AND to_state = 'purged'"),
    "withdrawn": (withdrawn, MOVED("claim") + " AND to_state = 'released'"),
    "pay": (unpaid, BOOKED("claim_paid")),
    "withheld": (
        withheld,
        BOOKED("reserve_changed") + " AND occurred_at > marketplace_now() - interval '1 day'",
    ),
    "auditions": (auditions, BOOKED("audition_paid")),
    "jobs": (closing, MOVED("job") + " AND to_state = 'closed'"),
    "inbox": (told, BOOKED("deposit_credited")),
    "poll_events": (
        paid_deposits,
        "SELECT count(*) FROM stripe_event WHERE type = 'checkout.session.completed'",
    ),
    "poll_deposits": (paid_deposits, BOOKED("deposit_credited")),
    "poll_topups": (topups, BOOKED("topup_succeeded")),
    "poll_accounts": (onboarded, "SELECT count(*) FROM payout_account WHERE transfers = 'active'"),
    "funds": (pending, BOOKED("funds_available")),
    "refunds": (refunds, BOOKED("refund_confirmed")),
    "disputes": (disputed, BOOKED("dispute_opened")),
    "stripe_lines": (paid_deposits, "SELECT count(*) FROM stripe_line"),
    "payout_runs": (payday, "SELECT count(*) FROM payout"),
    "poll_bank_payouts": (at_the_bank, "SELECT count(*) FROM bank_payout"),
    "late_lines": (
        unnamed,
        "SELECT count(*) FROM booked_balance_transaction WHERE net_minor < 0",
    ),
    "withdrawals": (withdrawn_money, BOOKED("withdrawal_confirmed")),
    "payouts": (approved, BOOKED("transfer_confirmed")),
    "reversals": (coming_back, BOOKED("transfer_reversed")),
}


# Each with a story of its own.
ONCE = {"expired_keys", "leftovers", "seal", "sign_in_failures", "verify"}


def at_once(world: World, sweep: str) -> list[int]:
    async def many() -> list[int]:
        return await asyncio.gather(*(SWEEPS[sweep].run(world.parts) for _ in range(AT_ONCE)))

    return world.loopback.run(many())


def test_every_sweep_is_tried_here() -> None:
    assert SWEEPS.keys() - ONCE == DUE.keys()


@pytest.mark.parametrize("sweep", DUE)
def test_what_is_due_happens_once(
    world: World, caplog: pytest.LogCaptureFixture, sweep: str
) -> None:
    prepare, effect = DUE[sweep]
    prepare(world)
    # Of what Stripe did not answer on the way here.
    caplog.clear()
    assert world.value(effect) == 0
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            at_once(world, sweep)
            assert world.value(effect) == SEVERAL
    assert caplog.messages == []


def test_leftovers_are_removed_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    leftovers(world)
    assert sum(at_once(world, "leftovers")) == SEVERAL
    assert caplog.messages == []


def test_the_books_are_looked_at_once_an_hour(world: World) -> None:
    for hours in (1, 2):
        at_once(world, "verify")
        assert world.value("SELECT count(*) FROM sweep_slot WHERE sweep = 'verify'") == hours
        world.advance(3_600)


def test_what_was_booked_is_sealed_once(world: World) -> None:
    pending(world)
    assert at_once(world, "seal") == [1] * AT_ONCE
    assert world.value("SELECT count(*) FROM seal") == 1
