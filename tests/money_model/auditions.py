"""Paid try-outs, at the platform's own expense; who passes may work."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model.books import EXPENSE, pay_of, payable
from tests.money_model.claims import Claims, Earning
from tests.money_model.stage import ANY, picked
from tests.world import Json, declare

# What the stage has set: per hour, and the longest that is paid.
AUDITION_MINOR_PER_HOUR = 11_113
AUDITION_SECONDS_CAP = 60
OFFER = {
    "brief": "A minute as someone who finds a letter.",
    "currency": "USD",
    "seconds_cap": AUDITION_SECONDS_CAP,
}


class Auditions(Claims):
    @precondition(lambda self: self.cast.applicants)
    @rule(reviewer=ANY, seconds=st.integers(0, 80), passes=st.booleans())
    def somebody_tries_out(self, reviewer: int, seconds: int, passes: bool) -> None:
        self.steady()
        applicant = self.cast.applicants.pop()
        self.cast.olga.post(f"/v1/performers/{applicant.id}/auditions", OFFER)
        applicant.post("/v1/audition/start")
        take = declare(applicant, "/v1/audition/recordings", b"a take that was never sent")["id"]
        for state in ("checking", "passed"):
            self.world.sql(
                "UPDATE recording SET state = %s, due_at = NULL WHERE id = %s", state, take
            )
        self.world.advance(seconds)
        audition: Json = applicant.post("/v1/audition/hand-in", {"recording_id": take})
        assert min(seconds, AUDITION_SECONDS_CAP) <= audition["paid_seconds"]
        assert audition["paid_seconds"] <= AUDITION_SECONDS_CAP
        pay = pay_of(audition["paid_seconds"], AUDITION_MINOR_PER_HOUR)
        assert audition["pay_minor"] == pay
        self.books.book(pay, EXPENSE, payable(applicant.id))
        if pay:
            self.earnings.append(Earning(applicant, pay))
        judged = {"outcome": "passed" if passes else "failed", "reason": "an ear for it"}
        path = f"/v1/auditions/{audition['id']}/decision"
        picked(self.cast.reviewers, reviewer).post(path, judged)
        if passes:
            self.cast.performers.append(applicant)
