"""Money that goes out, and what comes back of it: once, as decided, whoever asks however often."""

import random
import time
from dataclasses import dataclass
from typing import Any

from tests.faults.flow import RATE, at_stripe, earned_minor, post_unless_forestalled
from tests.payouts.killed_sender import SHORT_LEASE
from tests.world import DAY, HOUR, Client, Json, Person, World

GONE = {"reason": "It is not there."}

# An account at Stripe, into which Ana is paid.


def newcomer(world: World, _chance: random.Random) -> Person:
    return world.performer("Ana")


def open_account(world: World, ana: Person) -> None:
    opened = ana.post("/v1/payout-account", {"return_url": "https://app.example/paid"})
    world.stripe.complete(opened["onboarding_url"], "complete")
    world.advance(5 * 60)
    world.sweep("poll_accounts")


def may_be_paid(world: World, ana: Person) -> None:
    (account,) = world.sql("SELECT * FROM payout_account")
    assert (str(account["performer_id"]), account["transfers"]) == (ana.id, "active")


# A payout: drafted, approved by a second person, sent.


@dataclass(frozen=True)
class Payday:
    ana: Person
    finn: Person
    fay: Person
    amount_minor: int


def payday(world: World, chance: random.Random) -> Payday:
    """Ana is owed for a minute or more; nobody has drafted a run yet."""
    acme: Client = world.client(deposit_minor=100_000)
    finn, fay, ravi = world.finance("Finn"), world.finance("Fay"), world.reviewer()
    world.capital(finn, 500_000)
    ana = world.performer("Ana", onboarded=True)
    seconds = chance.randrange(60, 180)
    world.accepted_claim(ana, world.published_job(acme), ravi, seconds=seconds)
    world.sweep("poll_events", "inbox")
    return Payday(ana, finn, fay, earned_minor(seconds, RATE))


def pay(world: World, cast: Payday) -> None:
    run = cast.finn.post("/v1/payout-runs", {"currency": "USD"})
    cast.fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts")


def decide_absent(world: World, somebody: Person, path: str, table: str) -> None:
    """What Stripe has forgotten the key of, and does not have."""
    unknown = f"SELECT id FROM {table} WHERE state = 'unknown'"
    for row in world.sql(unknown):
        decided = somebody.ask("POST", f"/v1/{path}/{row['id']}/absent", GONE)
        assert decided.status_code in {200, 409}, decided.text


def approve_again(world: World, cast: Payday) -> None:
    """Stripe's restriction is lifted, and finance tries once more what was held or refused."""
    decide_absent(world, cast.fay, "payouts", "payout")
    for payout in world.sql("SELECT * FROM payout WHERE state IN ('held', 'refused')"):
        world.stripe.lift(payout["destination"])
        cast.fay.post(f"/v1/payouts/{payout['id']}/approve", {"reason": "It was looked at."})


def release(world: Any, cast: Payday) -> None:
    """Finance gives the payout up, if it still can."""
    for payout in world.sql("SELECT id FROM payout"):
        answer = cast.finn.ask("POST", f"/v1/payouts/{payout['id']}/release", {"reason": "No."})
        assert answer.status_code in {200, 409}, answer.text


def send_too(world: Any, _cast: Payday) -> None:
    """Another sender, which takes this one for dead."""
    world.advance(61)
    world.sweep("payouts")


def send_for_it_a_day_later(world: Any, cast: Payday) -> None:
    """By now Stripe has forgotten the key; finance lets it be sent with a new one."""
    # By the clock of the one that stands still its lease is over, too: see the launcher.
    time.sleep(SHORT_LEASE.total_seconds() + 0.1)
    world.advance(25 * HOUR)
    world.sweep("payouts")
    for payout in world.sql("SELECT id FROM payout WHERE state = 'unknown'"):
        for verb in ("absent", "approve"):
            cast.fay.ask("POST", f"/v1/payouts/{payout['id']}/{verb}", {"reason": "It is gone."})
    world.sweep("payouts")


def paid(world: World, cast: Payday) -> None:
    (payout,) = world.sql("SELECT * FROM payout")
    assert world.value("SELECT count(*) FROM payout_run") == 1
    if payout["state"] == "released":
        assert world.stripe.transfers() == []
        assert world.ledger("performer_payable", cast.ana.id) == -cast.amount_minor
        return
    assert payout["state"] == "paid", payout["state_reason"]
    (transfer,) = world.stripe.transfers()
    assert transfer["id"] == payout["transfer_id"]
    moved = transfer["amount"], transfer["destination"]
    assert moved == (cast.amount_minor, payout["destination"])
    assert world.ledger("performer_payable", cast.ana.id) == 0
    assert world.ledger("transfers_in_flight") == 0


# A payout that went to the wrong account comes back.


@dataclass(frozen=True)
class Paid(Payday):
    payout_id: str


def after_payday(world: World, chance: random.Random) -> Paid:
    cast = payday(world, chance)
    pay(world, cast)
    world.sweep("poll_events", "inbox")
    payout_id = str(world.value("SELECT id FROM payout"))
    return Paid(cast.ana, cast.finn, cast.fay, cast.amount_minor, payout_id)


def take_back(world: World, cast: Paid) -> None:
    wanted = {
        "amount_minor": cast.amount_minor,
        "cause": "wrong_destination",
        "reason": "It is her sister's.",
    }
    asked = cast.finn.post(f"/v1/payouts/{cast.payout_id}/reversals", wanted)
    cast.fay.post(f"/v1/reversals/{asked['id']}/approve")
    world.sweep("reversals")


def reverse_too(world: Any, _cast: Paid) -> None:
    world.advance(61)
    world.sweep("reversals")


def reversal_is_gone(world: World, cast: Paid) -> None:
    decide_absent(world, cast.fay, "reversals", "transfer_reversal")


def came_back(world: World, cast: Paid) -> None:
    (reversal,) = world.sql("SELECT * FROM transfer_reversal")
    (transfer,) = world.stripe.transfers()
    returned = cast.amount_minor if reversal["state"] == "reversed" else 0
    assert reversal["state"] in {"reversed", "refused"}, reversal["state_reason"]
    assert transfer["amount_reversed"] == returned
    assert world.ledger("performer_payable", cast.ana.id) == -returned
    assert world.ledger("transfers_in_flight") == 0


# Too much was decided: it becomes a debt, which is taken off the pay before it is sent.

FOUND_SECONDS = 50


def correct(world: World, cast: Payday) -> None:
    claim = cast.ana.get("/v1/claims")["items"][0]
    less = {"seconds": FOUND_SECONDS, "reason": "The rest was silence."}
    _approve(cast.fay, cast.finn.post(f"/v1/claims/{claim['id']}/corrections", less))
    debt = cast.amount_minor - earned_minor(FOUND_SECONDS, RATE)
    wanted = {"amount_minor": debt, "currency": "USD", "reason": "Off the next pay."}
    _approve(cast.fay, cast.finn.post(f"/v1/performers/{cast.ana.id}/nettings", wanted))
    pay(world, cast)


def _approve(fay: Person, made: Json) -> None:
    path = f"/v1/corrections/{made['id']}"
    post_unless_forestalled(fay, f"{path}/approve")
    approved = fay.get(path)
    assert approved["state"] == "approved", approved


def approve_too(world: Any, cast: Payday) -> None:
    """The second person again, with another key."""
    for proposed in world.sql("SELECT id FROM correction WHERE state = 'proposed'"):
        answer = cast.fay.ask("POST", f"/v1/corrections/{proposed['id']}/approve")
        assert answer.status_code in {200, 409, 503}, answer.text


def corrected(world: World, cast: Payday) -> None:
    due = earned_minor(FOUND_SECONDS, RATE)
    (transfer,) = world.stripe.transfers()
    assert transfer["amount"] == due
    assert world.ledger("performer_payable", cast.ana.id) == 0
    assert world.ledger("performer_receivable", cast.ana.id) == 0
    kinds = world.sql("SELECT kind FROM correction WHERE state = 'approved' ORDER BY kind")
    assert [each["kind"] for each in kinds] == ["pay_corrected", "receivable_netted"]


# A client's money goes back to who paid it in.


@dataclass(frozen=True)
class Refunded:
    acme: Client
    fay: Person
    amount_minor: int


def full_wallet(world: World, chance: random.Random) -> Refunded:
    world.capital(world.finance("Finn"), 5_000)
    acme = world.client(deposit_minor=100_000)
    world.advance(3 * DAY)
    world.sweep("funds", "poll_events", "inbox")
    return Refunded(acme, world.finance("Fay"), chance.randrange(1, 100_000))


def refund(world: World, cast: Refunded) -> None:
    wanted = {"amount_minor": cast.amount_minor, "currency": "USD"}
    post_unless_forestalled(cast.acme, "/v1/refunds", wanted)
    world.sweep("refunds")


def refund_too(world: Any, _cast: Refunded) -> None:
    world.advance(91)
    world.sweep("refunds")


def ask_for_all_of_it(world: Any, cast: Refunded) -> None:
    """There is no room for both."""
    answer = cast.acme.ask("POST", "/v1/refunds", {"amount_minor": 100_000, "currency": "USD"})
    assert answer.status_code in {201, 409, 503}, answer.text


def refund_is_gone(world: World, cast: Refunded) -> None:
    decide_absent(world, cast.fay, "refunds", "refund")


def refunded(world: World, cast: Refunded) -> None:
    (row,) = world.sql("SELECT * FROM refund")
    there = at_stripe(world, "refunds")
    returned = row["amount_minor"] if row["state"] == "succeeded" else 0
    assert row["state"] in {"succeeded", "refused"}, row["state_reason"]
    assert row["amount_minor"] in {cast.amount_minor, 100_000}
    assert sum(each["amount"] for each in there) == returned
    assert len(there) == (1 if returned else 0)
    assert cast.acme.wallet_minor == 100_000 - returned
    assert world.ledger("refunds_in_flight") == 0


# The platform's own money goes to its bank.


@dataclass(frozen=True)
class Withdrawer:
    finn: Person
    fay: Person
    amount_minor: int


def capital(world: World, chance: random.Random) -> Withdrawer:
    finn, fay = world.finance("Finn"), world.finance("Fay")
    world.capital(finn, 500_000)
    world.sweep("poll_events", "inbox")
    return Withdrawer(finn, fay, chance.randrange(1, 500_000))


def withdraw(world: World, cast: Withdrawer) -> None:
    wanted = {"amount_minor": cast.amount_minor, "currency": "USD", "reason": "Fees."}
    asked = cast.finn.post("/v1/withdrawals", wanted)
    post_unless_forestalled(cast.fay, f"/v1/withdrawals/{asked['id']}/approve")
    world.sweep("withdrawals")


def withdraw_too(world: Any, _cast: Withdrawer) -> None:
    world.advance(91)
    world.sweep("withdrawals")


def discard(world: Any, cast: Withdrawer) -> None:
    for row in world.sql("SELECT id FROM withdrawal"):
        answer = cast.fay.ask("POST", f"/v1/withdrawals/{row['id']}/discard", {"reason": "No."})
        assert answer.status_code in {200, 409}, answer.text


def withdrawal_is_gone(world: World, cast: Withdrawer) -> None:
    decide_absent(world, cast.fay, "withdrawals", "withdrawal")


def withdrawn(world: World, cast: Withdrawer) -> None:
    (row,) = world.sql("SELECT * FROM withdrawal")
    there = at_stripe(world, "payouts")
    left = cast.amount_minor if row["state"] in {"in_transit", "arrived"} else 0
    assert left or row["state"] in {"refused", "discarded"}, row["state_reason"]
    assert sum(each["amount"] for each in there) == left
    assert len(there) == (1 if left else 0)
    assert world.ledger("bank_in_transit") == 0
    assert world.ledger("platform_capital") == left - 500_000


# A payer's bank takes a payment back, and then decides for or against us.


@dataclass(frozen=True)
class Disputed:
    acme: Client
    amount_minor: int
    decided: str


def disputed_payment(world: World, chance: random.Random) -> Disputed:
    """Some of the wallet is set aside for work that nobody has begun."""
    cast = full_wallet(world, chance)
    world.capital(world.finance("Otto"), 200_000)
    world.published_job(cast.acme, tasks=chance.randrange(1, 5))
    world.sweep("poll_events", "inbox")
    return Disputed(cast.acme, chance.randrange(1, 100_001), chance.choice(("won", "lost")))


def dispute(world: World, cast: Disputed) -> None:
    payment = world.value("SELECT payment_intent_id FROM deposit")
    made = world.stripe.control(
        "POST", "disputes", payment_intent=payment, amount=cast.amount_minor
    )
    world.sweep("poll_events", "inbox")
    world.stripe.control("PUT", f"disputes/{made['id']}", to=cast.decided)
    world.sweep("poll_events", "inbox")


def borne(world: World, cast: Disputed) -> None:
    """A lost one is borne by the wallet, then by what is set aside, and the rest is owed."""
    assert world.value("SELECT string_agg(state, ' ') FROM dispute") == cast.decided
    lost = cast.amount_minor if cast.decided == "lost" else 0
    wallet = cast.acme.get("/v1/wallet")
    owed = world.ledger("client_receivable", cast.acme.id)
    assert wallet["balance_minor"] + wallet["reserved_minor"] == 100_000 - lost + owed
    assert owed == 0 or wallet["balance_minor"] == 0
    assert world.ledger("disputes_receivable") == 0
    assert world.ledger("wallet_disputed", cast.acme.id) == 0
    assert world.ledger("stripe_available") == world.stripe.platform_minor
