"""What a payer's bank takes back: set aside, given again, or borne in order; then a client owes."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model.books import AVAILABLE, PLATFORM, Account, reserve, wallet
from tests.money_model.deposits import Deposit
from tests.money_model.jobs import Jobs
from tests.money_model.refunds import WHY, Refunds
from tests.money_model.stage import ANY, picked
from tests.world import Client, Json

DISPUTED_AT_STRIPE: Account = ("disputes_receivable", "")
DISPUTE_FEES: Account = ("dispute_fees", "")
BAD_DEBT: Account = ("bad_debt", "")
# Stripe's, for each; it is not given back.
FEE_MINOR = 1_500


def set_aside(client_id: str) -> Account:
    return ("wallet_disputed", client_id)


def debt(client_id: str) -> Account:
    return ("client_receivable", client_id)


@dataclass
class Dispute:
    id: str
    deposit: Deposit
    amount_minor: int
    held_minor: int
    # open, won, lost
    state: str = "open"


@dataclass
class DebtDecision:
    id: str
    client_id: str
    remedy: str
    amount_minor: int


class Disputes(Refunds, Jobs):
    """Told at once: what comes of it depends on what else was told before."""

    def __init__(self) -> None:
        super().__init__()
        self.disputes: list[Dispute] = []
        self.debt_decisions: list[DebtDecision] = []

    def disputes_of(self, deposit: Deposit, *states: str) -> list[Dispute]:
        return [each for each in self.disputes if each.deposit is deposit and each.state in states]

    def is_paused(self, client_id: str) -> bool:
        return any(
            each.state == "open" and each.deposit.client_id == client_id for each in self.disputes
        )

    def owed_by(self, client_id: str) -> int:
        return self.books.held(debt(client_id))

    def lost_of(self, deposit: Deposit) -> int:
        return sum(each.amount_minor for each in self.disputes_of(deposit, "lost"))

    def is_disputed(self, deposit: Deposit) -> bool:
        return bool(self.disputes_of(deposit, "open", "lost"))

    def left_at_stripe(self, deposit: Deposit) -> int:
        gone = (each for each in self.standing() if each.deposit is deposit)
        return deposit.amount_minor - sum(each.amount_minor for each in gone)

    def disputable(self) -> list[Deposit]:
        return [
            each
            for each in self.deposits
            if each.is_credited and not self.is_disputed(each) and self.left_at_stripe(each) > 0
        ]

    @precondition(lambda self: self.disputable())
    @rule(deposit=ANY, per_mille=st.sampled_from([1_000, 300]))
    def a_bank_takes_a_payment_back(self, deposit: int, per_mille: int) -> None:
        """As much as the wallet has is set aside until it is decided."""
        self.swept(("poll_events", "inbox"))
        now = self.steady()
        paid = picked(self.disputable(), deposit)
        taken = self.left_at_stripe(paid) * per_mille // 1_000 or 1
        payment = self.world.value("SELECT payment_intent_id FROM deposit WHERE id = %s", paid.id)
        made: Json = self.world.stripe.control(
            "POST", "disputes", payment_intent=payment, amount=taken
        )
        self.stripe.add(PLATFORM, -taken - FEE_MINOR, now)
        self.swept(("poll_events", "inbox"))
        money = wallet(paid.client_id)
        held = min(taken, self.books.owed(money))
        self.books.book(held, money, set_aside(paid.client_id))
        self.books.book(taken, DISPUTED_AT_STRIPE, AVAILABLE)
        self.books.book(FEE_MINOR, DISPUTE_FEES, AVAILABLE)
        self.disputes.append(Dispute(made["id"], paid, taken, held))

    def open_disputes(self) -> list[Dispute]:
        return [each for each in self.disputes if each.state == "open"]

    @precondition(lambda self: self.open_disputes())
    @rule(dispute=ANY, won=st.booleans())
    def a_dispute_ends(self, dispute: int, won: bool) -> None:
        self.swept(("poll_events", "inbox"))
        now = self.steady()
        ended = picked(self.open_disputes(), dispute)
        ended.state = "won" if won else "lost"
        self.world.stripe.control("PUT", f"disputes/{ended.id}", to=ended.state)
        if won:
            self.stripe.add(PLATFORM, ended.amount_minor, now)
        self.swept(("poll_events", "inbox"))
        client_id = ended.deposit.client_id
        if won:
            self.books.book(ended.amount_minor, AVAILABLE, DISPUTED_AT_STRIPE)
            self.books.book(ended.held_minor, set_aside(client_id), wallet(client_id))
        else:
            self.bear(ended, client_id)

    def bear(self, lost: Dispute, client_id: str) -> None:
        """Out of what was set aside, then of roles that nobody has begun; the rest is owed."""
        needed = lost.amount_minor - lost.held_minor
        returned = self.given_up(client_id, needed)
        from_reserves = min(returned, needed)
        self.books.book(lost.held_minor, set_aside(client_id), DISPUTED_AT_STRIPE)
        self.books.book(from_reserves, wallet(client_id), DISPUTED_AT_STRIPE)
        self.books.book(needed - from_reserves, debt(client_id), DISPUTED_AT_STRIPE)

    def given_up(self, client_id: str, needed: int) -> int:
        """The oldest open roles, until it is enough."""
        (client,) = (each for each in self.cast.clients if each.id == client_id)
        returned = 0
        for job, role in sorted(self.open_roles_of(client), key=lambda pair: pair[1].id):
            if returned >= needed:
                break
            returned += self.books.owed(reserve(role.id))
            self.give_back(job, role)
            role.state = "unfunded"
        return returned

    # debts

    def debtors(self) -> list[Client]:
        return [each for each in self.cast.clients if self.books.held(debt(each.id))]

    @precondition(lambda self: self.debtors())
    @rule(
        client=ANY,
        per_mille=st.sampled_from([400, 1_000, 1_001]),
        remedy=st.sampled_from(["settle", "write_off"]),
    )
    def one_proposes_what_becomes_of_a_debt(self, client: int, per_mille: int, remedy: str) -> None:
        self.steady()
        debtor = picked(self.debtors(), client)
        owes = self.books.held(debt(debtor.id))
        wanted = owes + 1 if per_mille > 1_000 else owes * per_mille // 1_000 or 1
        path = f"/v1/client-debts/{debtor.id}/decisions"
        body = {"remedy": remedy, "amount_minor": wanted, "currency": "USD", **WHY}
        if wanted > owes:
            assert self.cast.finn.refused("POST", path, body) == "409 client_owes_less"
            return
        made: Json = self.cast.finn.post(path, body)
        self.debt_decisions.append(DebtDecision(made["id"], debtor.id, remedy, wanted))

    @precondition(lambda self: self.debt_decisions)
    @rule(decision=ANY, confirm=st.sampled_from([True, True, False]))
    def another_decides_about_a_debt(self, decision: int, confirm: bool) -> None:
        self.steady()
        proposed = picked(self.debt_decisions, decision)
        path = f"/v1/client-debt-decisions/{proposed.id}/decision"
        body = {"confirm": confirm, **WHY}
        client_id, minor = proposed.client_id, proposed.amount_minor
        bearer = wallet(client_id) if proposed.remedy == "settle" else BAD_DEBT
        if confirm and minor > self.books.held(debt(client_id)):
            assert self.cast.fay.refused("POST", path, body) == "409 client_owes_less"
            return
        if confirm and proposed.remedy == "settle" and minor > self.books.owed(bearer):
            assert self.cast.fay.refused("POST", path, body) == "409 wallet_too_low"
            return
        self.cast.fay.post(path, body)
        self.debt_decisions.remove(proposed)
        if confirm:
            self.books.book(minor, bearer, debt(client_id))
