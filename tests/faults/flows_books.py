"""Finance's books: a line of Stripe's that nobody knew, what a client is charged, a month's end."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.faults.flow import post_unless_forestalled
from tests.faults.flows_out import after_payday
from tests.world import DAY, Client, Json, Person, World

REASON = "I saw it at Stripe."


@dataclass(frozen=True)
class Books:
    """Two people of finance."""

    finn: Person
    fay: Person


def propose_line(world: World, finn: Person, booked_as: str) -> None:
    """What Stripe lists and no booking has; if nobody proposed it yet."""
    world.sweep("stripe_lines")
    if world.sql("SELECT FROM line_booking"):
        return
    (line,) = finn.get("/v1/exceptions")["items"]
    wanted = {"booked_as": booked_as, "reason": REASON}
    finn.post(f"/v1/exceptions/{line['line_id']}/bookings", wanted)


def approve_line(world: World, fay: Person) -> None:
    for row in world.sql("SELECT id FROM line_booking WHERE state = 'proposed'"):
        post_unless_forestalled(fay, f"/v1/line-bookings/{row['id']}/approve")


# A line of Stripe's is in no booking, and two people say what it is.


@dataclass(frozen=True)
class UnknownLine(Books):
    amount_minor: int


def charged_by_stripe(world: World, chance: random.Random) -> UnknownLine:
    finn, fay, minor = world.finance("Finn"), world.finance("Fay"), chance.randrange(1, 100_000)
    world.capital(finn, 100_000)
    world.sweep("poll_events", "inbox")
    world.stripe.fee(minor)
    return UnknownLine(finn, fay, minor)


def book_line(world: World, cast: UnknownLine) -> None:
    propose_line(world, cast.finn, "stripe_fee")
    approve_line(world, cast.fay)


def approve_line_too(world: Any, cast: Books) -> None:
    """The second person again, with another key."""
    for row in world.sql("SELECT id FROM line_booking WHERE state = 'proposed'"):
        answer = cast.fay.ask("POST", f"/v1/line-bookings/{row['id']}/approve")
        assert answer.status_code in {200, 409, 503}, answer.text


def line_is_booked(world: World, cast: UnknownLine) -> None:
    assert world.value("SELECT string_agg(state, ' ') FROM line_booking") == "booked"
    assert world.ledger("stripe_fees") == cast.amount_minor
    assert world.ledger("stripe_available") == world.stripe.platform_minor
    assert world.ledger("stripe_available") == 100_000 - cast.amount_minor


# A payment that Stripe settled in another currency was refunded there by hand: its client is charged.


@dataclass(frozen=True)
class ForeignPayment(Books):
    acme: Client
    amount_minor: int


def foreign_payment(world: World, chance: random.Random) -> ForeignPayment:
    """1,000.00 USD, of which Stripe made euros; some of it is set aside for work nobody has begun."""
    finn, fay, acme = world.finance("Finn"), world.finance("Fay"), world.client()
    world.capital(finn, 500_000)
    world.stripe.control("PUT", "settings", euros_percent=92)
    world.paid_at_stripe(acme, 100_000)
    world.advance(60)
    world.sweep("poll_deposits", "poll_events", "inbox")
    propose_line(world, finn, "foreign_deposit")
    approve_line(world, fay)
    world.advance(3 * DAY)
    world.sweep("funds", "poll_events", "inbox")
    world.published_job(acme, tasks=chance.randrange(1, 5))
    return ForeignPayment(finn, fay, acme, chance.randrange(1, 100_001))


def charge(world: World, cast: ForeignPayment) -> None:
    (deposit,) = cast.acme.get("/v1/wallet/deposits")["items"]
    wanted = {"deposit_id": deposit["id"], "amount_minor": cast.amount_minor, "currency": "USD"}
    if not world.sql("SELECT FROM client_charge"):
        cast.finn.post("/v1/client-charges", wanted | {"reason": REASON})
    for proposed in _proposed_charges(cast):
        path = f"/v1/client-charges/{proposed['id']}/decision"
        post_unless_forestalled(cast.fay, path, _YES)


_YES = {"confirm": True, "reason": REASON}


def _proposed_charges(cast: ForeignPayment) -> list[Json]:
    found: list[Json] = cast.fay.get("/v1/client-charges?state=proposed")["items"]
    return found


def charge_too(_world: Any, cast: ForeignPayment) -> None:
    for proposed in _proposed_charges(cast):
        path = f"/v1/client-charges/{proposed['id']}/decision"
        answer = cast.fay.ask("POST", path, _YES)
        assert answer.status_code in {200, 409, 503}, answer.text


def charged(world: World, cast: ForeignPayment) -> None:
    """Out of the wallet, and out of what was set aside once that is too little."""
    (row,) = world.sql("SELECT * FROM client_charge")
    assert (row["state"], row["from_wallet_minor"]) == ("approved", cast.amount_minor)
    wallet = cast.acme.get("/v1/wallet")
    left = 100_000 - cast.amount_minor
    assert wallet["balance_minor"] + wallet["reserved_minor"] == left
    assert world.ledger("client_receivable", cast.acme.id) == 0


# A month is over: one person looks it through, another closes it.


@dataclass(frozen=True)
class Month(Books):
    name: str


def month_is_over(world: World, chance: random.Random) -> Month:
    cast = after_payday(world, chance)
    now: datetime = world.value("SELECT marketplace_now()")
    world.advance_to((now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=6))
    world.sweep("funds", "stripe_lines")
    return Month(cast.finn, cast.fay, f"{now:%Y-%m}")


def close_month(_world: World, cast: Month) -> None:
    path = f"/v1/periods/{cast.name}"
    if cast.finn.get(path)["state"] == "open":
        cast.finn.post(f"{path}/close")
    if cast.fay.get(path)["state"] == "closing":
        post_unless_forestalled(cast.fay, f"{path}/confirm")


def send_back(_world: Any, cast: Month) -> None:
    """She found something while he was at it; it is looked through again."""
    path = f"/v1/periods/{cast.name}/reopen"
    answer = cast.fay.ask("POST", path, {"reason": "One line looks odd."})
    assert answer.status_code in {200, 409, 503}, answer.text


def month_is_closed(world: World, cast: Month) -> None:
    (row,) = world.sql("SELECT * FROM accounting_period")
    assert (row["state"], row["findings"]["problems"]) == ("closed", [])
    assert str(row["closing_by"]) == cast.finn.id
    assert str(row["closed_by"]) == cast.fay.id
