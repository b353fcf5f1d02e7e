"""Work: roles are claimed at the rate of that moment, its seconds counted, and handed in or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model.books import (
    FEES,
    cost_of,
    fee_on,
    pay_of,
    payable,
    reserve,
    wallet,
)
from tests.money_model.jobs import Job, Jobs, Role
from tests.money_model.stage import ANY, picked
from tests.world import Json, Person

LIMIT_OF_CLAIMS = 3
# What somebody does, and for how many seconds, one after the other.
STRETCHES = st.lists(
    st.tuples(st.sampled_from(["perform", "prep"]), st.integers(1, 70)), min_size=1, max_size=3
)
WORKING = frozenset({"active", "in_session", "retake"})
# What is undecided by then is paid; what is withheld goes back when an appeal is too late.
DECISION_WITHIN = timedelta(hours=72)
APPEAL_WITHIN = timedelta(days=30)


@dataclass
class Claim:
    id: str
    performer: Person
    job: Job
    role: Role
    rate_minor_per_hour: int
    deadline: datetime
    state: str = "active"
    prep_seconds: int = 0
    perform_seconds: int = 0
    retake_seconds: int = 0
    # Of retakes that are over.
    earlier_seconds: int = 0
    retakes_granted: int = 0
    review_due_at: datetime | None = None
    refusals: int = 0
    # Undecided pay waits in a reserve of the claim's own until then.
    pay_due_at: datetime | None = None
    withheld_until: datetime | None = None
    proposal: str | None = None
    paid_minor: int | None = None

    @property
    def seconds(self) -> int:
        return self.prep_seconds + self.perform_seconds + self.retake_seconds + self.earlier_seconds

    @property
    def pay_minor(self) -> int:
        return pay_of(self.seconds, self.rate_minor_per_hour)

    @property
    def fee_minor(self) -> int:
        return fee_on(self.pay_minor, self.job.fee_basis_points)

    @property
    def cost_minor(self) -> int:
        return self.pay_minor + self.fee_minor


@dataclass
class Earning:
    """One thing that a performer is owed for."""

    performer: Person
    amount_minor: int
    payout_id: str | None = None


class Claims(Jobs):
    def __init__(self) -> None:
        super().__init__()
        self.claims: list[Claim] = []
        self.earnings: list[Earning] = []

    def claims_in(self, *states: str) -> list[Claim]:
        return [claim for claim in self.claims if claim.state in states]

    def somebody_may_claim(self) -> bool:
        return any(self.open_roles_of(client) for client in self.cast.clients)

    @precondition(lambda self: self.somebody_may_claim())
    @rule(performer=ANY, job=ANY, stretches=STRETCHES)
    def a_role_is_played(self, performer: int, job: int, stretches: list[tuple[str, int]]) -> None:
        """From the board to the reviewers in one go."""
        before = len(self.claims)
        self.a_role_is_claimed(performer, job)
        if len(self.claims) > before:
            place = len(self.claims_in(*WORKING)) - 1
            self.time_is_worked(place, stretches)
            if self.claims[-1].seconds:
                self.work_is_handed_in(len(self.claims_in("in_session", "retake")) - 1)

    @precondition(lambda self: self.somebody_may_claim())
    @rule(performer=ANY, job=ANY)
    def a_role_is_claimed(self, performer: int, job: int) -> None:
        """Perhaps in the minute before an announced rise: then at the rate before it."""
        now = self.world.now
        who = picked(self.cast.performers, performer)
        jobs = [
            each
            for each in self.jobs
            if not each.is_closed and any(role.state == "open" for role in each.roles)
        ]
        wanted = picked(jobs, job)
        board = who.get("/v1/board", job_id=wanted.id)["items"]
        if not board:
            return  # each task gives one chance
        asked = {"role_id": board[0]["role_id"]}
        live = [each for each in self.claims_in(*WORKING) if each.performer is who]
        if len(live) >= LIMIT_OF_CLAIMS:
            assert who.refused("POST", "/v1/claims", asked) == "409 claim_limit_reached"
            return
        made: Json = who.post("/v1/claims", asked)
        (role,) = (each for each in wanted.roles if each.id == made["role_id"])
        assert role.state == "open"
        role.state = "held"
        rate = made["rate_minor_per_hour"]
        claimed_at = datetime.fromisoformat(made["claimed_at"])
        assert rate in self.rates[wanted.client.id].may_lock(claimed_at)
        assert cost_of(wanted.longest_seconds, rate, wanted.fee_basis_points) <= self.books.owed(
            reserve(role.id)
        )
        deadline = datetime.fromisoformat(made["deadline"])
        assert deadline > now
        self.claims.append(Claim(made["id"], who, wanted, role, rate, deadline))

    @precondition(lambda self: self.claims_in(*WORKING))
    @rule(claim=ANY, stretches=STRETCHES)
    def time_is_worked(self, claim: int, stretches: list[tuple[str, int]]) -> None:
        worked = picked(self.claims_in(*WORKING), claim)
        for activity, seconds in stretches:
            doing = "retake" if (activity, worked.state) == ("perform", "retake") else activity
            self.work_a_stretch(worked, doing, seconds, self.steady())

    def work_a_stretch(self, claim: Claim, doing: str, seconds: int, now: datetime) -> None:
        left = self.left_for(claim, doing)
        if claim.deadline <= now or not left:
            path = f"/v1/claims/{claim.id}/time"
            refused = claim.performer.refused("POST", path, {"activity": doing})
            late = claim.deadline <= now
            assert refused == ("409 move_not_allowed" if late else "409 time_cap_reached")
            return
        answer = self.world.work(claim.performer, {"id": claim.id}, doing, seconds)
        entry = answer["entry"]
        started, ended = (
            datetime.fromisoformat(entry[name]) for name in ("started_at", "ended_at")
        )
        lasted = int((ended - started).total_seconds())
        # The machine may be slow, the clock goes on; but a cap is a cap.
        assert min(seconds, left) <= lasted <= left
        name = f"{doing}_seconds"
        setattr(claim, name, getattr(claim, name) + lasted)
        if claim.state == "active":
            claim.state = "in_session"
            told = claim.performer.get(f"/v1/claims/{claim.id}")
            claim.deadline = datetime.fromisoformat(told["deadline"])
        assert answer["total_seconds"] == claim.seconds
        assert answer["pay_minor"] == claim.pay_minor

    def left_for(self, claim: Claim, doing: str) -> int:
        if doing == "prep":
            return claim.job.prep_seconds_cap - claim.prep_seconds
        spent = claim.retake_seconds if doing == "retake" else claim.perform_seconds
        return claim.job.perform_seconds_cap - spent

    @precondition(lambda self: self.claims_in("in_session", "retake"))
    @rule(claim=ANY)
    def work_is_handed_in(self, claim: int) -> None:
        done = picked(self.claims_in("in_session", "retake"), claim)
        now = self.steady()
        if done.deadline <= now:
            return  # the sweep ends it
        take = self.world.take(done.performer, {"id": done.id})
        handed_in = self.world.hand_in(done.performer, {"id": done.id}, take)
        done.state = "submitted"
        done.refusals = 0
        told = done.performer.get(f"/v1/claims/{done.id}/submissions")["items"][-1]
        assert told["id"] == handed_in["id"]
        done.review_due_at = datetime.fromisoformat(told["review_due_at"])

    @precondition(lambda self: self.claims_in(*WORKING))
    @rule(claim=ANY)
    def a_claim_is_given_back(self, claim: int) -> None:
        self.steady()
        ended = picked(self.claims_in(*WORKING), claim)
        ended.performer.post(f"/v1/claims/{ended.id}/release", {})
        ended.state = "released"
        self.await_decision(ended)

    def sweep_expiry(self, now: datetime) -> None:
        late = [claim for claim in self.claims_in(*WORKING) if claim.deadline <= now]
        for claim in sorted(late, key=lambda claim: claim.deadline):
            claim.state = "expired"
            self.await_decision(claim)

    # what an end does to the money

    def await_decision(self, claim: Claim) -> None:
        """What its time may be paid waits in a reserve of its own, and the role opens again."""
        role = reserve(claim.role.id)
        funded = self.make_up(claim)
        if claim.seconds:
            claim.pay_due_at = self.world.now + DECISION_WITHIN
            self.books.book(claim.cost_minor, role, reserve(claim.id))
            self.waiting_of[claim.id] = claim.job.client.id
        self.open_again(claim, funded=funded)

    def make_up(self, claim: Claim) -> bool:
        """The role's next claim needs its whole worst case beside what this one is paid."""
        job, role = claim.job, reserve(claim.role.id)
        if job.is_closed:
            return False
        highest = self.rates[job.client.id].highest
        worst = cost_of(job.longest_seconds, highest, job.fee_basis_points)
        short = max(0, worst + claim.cost_minor - self.books.owed(role))
        if short > self.books.owed(wallet(job.client.id)):
            return False
        self.books.book(short, wallet(job.client.id), role)
        return True

    def open_again(self, claim: Claim, *, funded: bool) -> None:
        claim.role.state = "open" if funded else "unfunded"
        if claim.job.is_closed:
            claim.role.state = "withdrawn"
        if not funded:
            self.give_back(claim.job, claim.role)

    def pay(self, claim: Claim, source_id: str) -> None:
        """From the reserve of its role, or from its own."""
        claim.paid_minor = claim.pay_minor
        claim.pay_due_at = None
        source = reserve(source_id)
        self.books.book(claim.pay_minor, source, payable(claim.performer.id))
        self.books.book(claim.fee_minor, source, FEES)
        if claim.pay_minor:
            self.earnings.append(Earning(claim.performer, claim.pay_minor))
        self.pay_is_told(claim)

    def pay_is_told(self, claim: Claim) -> None:
        told = claim.performer.get(f"/v1/claims/{claim.id}/pay")
        assert (told["seconds"], told["pay_minor"]) == (claim.seconds, claim.paid_minor)

    def dues(self) -> Iterator[datetime]:
        yield from super().dues()
        for claim in self.claims:
            moments = (claim.review_due_at, claim.pay_due_at, claim.withheld_until)
            yield from (moment for moment in moments if moment)
            if claim.state in WORKING:
                yield claim.deadline
