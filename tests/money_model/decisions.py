"""Who decides: reviewers on takes, two people on not paying, and the clock when nobody does."""

from datetime import datetime

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model.books import reserve, wallet
from tests.money_model.claims import APPEAL_WITHIN, Claim, Claims
from tests.money_model.stage import ANY, picked
from tests.world import ACCEPT, REFUSE, RETAKE

VERDICTS = {"accept": ACCEPT, "refuse": REFUSE, "retake": RETAKE}
NO_WORK = {"ground": "no_work", "reason": "Nobody was in the room."}


class Decisions(Claims):
    @precondition(lambda self: self.claims_in("submitted"))
    @rule(reviewer=ANY, verdict=st.sampled_from(["accept", "refuse", "retake"]))
    def a_take_is_judged(self, reviewer: int, verdict: str) -> None:
        self.steady()
        judge = picked(self.cast.reviewers, reviewer)
        asked = judge.ask("POST", "/v1/reviews/next")
        if asked.status_code == 404:
            return  # this one has judged all that waits
        review = asked.json()
        (claim,) = (each for each in self.claims if each.id == review["claim_id"])
        path = f"/v1/reviews/{review['id']}/verdict"
        if verdict == "retake" and claim.retakes_granted == claim.job.retakes_max:
            assert judge.refused("POST", path, RETAKE) == "409 no_retakes_left"
            return
        judge.post(path, VERDICTS[verdict])
        getattr(self, f"take_{verdict}")(claim)

    def take_accept(self, claim: Claim) -> None:
        """Paid, and what is left of the role's reserve goes back at once."""
        self.settle(claim)
        self.pay(claim, claim.role.id)
        self.give_back(claim.job, claim.role)
        claim.role.state = "done"

    def take_refuse(self, claim: Claim) -> None:
        """It takes two; and the time is paid all the same."""
        claim.refusals += 1
        if claim.refusals < 2:
            return
        self.settle(claim)
        funded = self.make_up(claim)
        self.pay(claim, claim.role.id)
        self.open_again(claim, funded=funded)

    def take_retake(self, claim: Claim) -> None:
        claim.state = "retake"
        claim.review_due_at = None
        claim.retakes_granted += 1
        claim.earlier_seconds += claim.retake_seconds
        claim.retake_seconds = 0
        told = claim.performer.get(f"/v1/claims/{claim.id}")
        claim.deadline = datetime.fromisoformat(told["deadline"])

    def settle(self, claim: Claim) -> None:
        claim.state = "settled"
        claim.review_due_at = None

    def sweep_accept(self, now: datetime) -> None:
        for claim in self.claims_in("submitted"):
            if claim.review_due_at and claim.review_due_at <= now:
                self.take_accept(claim)

    # pay of what ended without a review

    def undecided(self) -> list[Claim]:
        return [claim for claim in self.claims if claim.pay_due_at]

    @precondition(lambda self: self.undecided())
    @rule(claim=ANY, decider=ANY)
    def somebody_pays(self, claim: int, decider: int) -> None:
        self.steady()
        owed = picked(self.undecided(), claim)
        picked(self.cast.reviewers, decider).post(f"/v1/claims/{owed.id}/pay")
        owed.proposal = None
        self.pay(owed, owed.id)

    @precondition(lambda self: self.undecided())
    @rule(claim=ANY)
    def one_proposes_not_to_pay(self, claim: int) -> None:
        now = self.steady()
        owed = picked(self.undecided(), claim)
        proposer = self.cast.reviewers[0]
        path = f"/v1/claims/{owed.id}/withholdings"
        assert owed.pay_due_at
        if owed.pay_due_at <= now:
            assert proposer.refused("POST", path, NO_WORK) == "409 pay_already_decided"
        elif owed.proposal:
            assert proposer.refused("POST", path, NO_WORK).startswith("409")
        else:
            owed.proposal = proposer.post(path, NO_WORK)["id"]

    def proposed(self) -> list[Claim]:
        return [claim for claim in self.undecided() if claim.proposal]

    @precondition(lambda self: self.proposed())
    @rule(claim=ANY, confirm=st.booleans())
    def another_decides_about_it(self, claim: int, confirm: bool) -> None:
        now = self.steady()
        owed = picked(self.proposed(), claim)
        second = self.cast.reviewers[1]
        path = f"/v1/withholdings/{owed.proposal}/decision"
        body = {"confirm": confirm, "reason": "I listened to it."}
        assert owed.pay_due_at
        if confirm and owed.pay_due_at <= now:
            assert second.refused("POST", path, body) == "409 pay_already_decided"
            return
        second.post(path, body)
        owed.proposal = None
        if not confirm:
            self.pay(owed, owed.id)
            return
        owed.paid_minor, owed.pay_due_at = 0, None
        owed.withheld_until = self.world.now + APPEAL_WITHIN
        self.pay_is_told(owed)

    def sweep_pay(self, now: datetime) -> None:
        """Overdue means pay."""
        for claim in self.undecided():
            if claim.pay_due_at and claim.pay_due_at <= now:
                claim.proposal = None
                self.pay(claim, claim.id)

    def sweep_withheld(self, now: datetime) -> None:
        for claim in self.claims:
            if claim.withheld_until and claim.withheld_until <= now:
                claim.withheld_until = None
                own = reserve(claim.id)
                self.books.book(self.books.owed(own), own, wallet(claim.job.client.id))
