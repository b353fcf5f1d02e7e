"""What is set aside for work: publishing, rises of the rate, closing."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.money_model.books import cost_of, reserve, wallet
from tests.money_model.deposits import Deposits
from tests.money_model.stage import ANY, picked
from tests.world import Client, Json, new_job

MOST_JOBS = 5
# Stamps are cut to whole seconds.
A_SECOND = timedelta(seconds=1)
# A rise is in force a minute after it is announced.
RISES_AFTER = timedelta(minutes=1)


@dataclass
class Role:
    id: str
    # As the states of the product: unfunded, open, held, done, withdrawn.
    state: str = "unfunded"


@dataclass
class Job:
    id: str
    client: Client
    asked_minor_per_hour: int
    prep_seconds_cap: int
    perform_seconds_cap: int
    retakes_max: int
    roles: list[Role]
    is_published: bool = False
    is_closed: bool = False
    fee_basis_points: int = 0

    @property
    def longest_seconds(self) -> int:
        return self.prep_seconds_cap + self.perform_seconds_cap * (1 + self.retakes_max)

    def unfunded(self) -> list[Role]:
        return sorted(
            (role for role in self.roles if role.state == "unfunded"), key=lambda role: role.id
        )


@dataclass
class Rate:
    minor_per_hour: int
    # In force from some moment between these two.
    earliest: datetime
    latest: datetime


@dataclass
class Rates:
    """All that one client ever paid an hour for this kind of work; it only rises here."""

    announced: list[Rate] = field(default_factory=list)

    @property
    def highest(self) -> int:
        """What a reserve must cover: no claim made from now on can lock more."""
        return self.announced[-1].minor_per_hour

    def may_lock(self, moment: datetime) -> set[int]:
        """What a claim made in that second locks."""
        certain = [rate for rate in self.announced if rate.latest <= moment]
        perhaps = [rate for rate in self.announced if rate.earliest <= moment < rate.latest]
        return {rate.minor_per_hour for rate in [*certain[-1:], *perhaps]}


class Jobs(Deposits):
    def __init__(self) -> None:
        super().__init__()
        self.set_fee(1_500)
        self.jobs: list[Job] = []
        self.rates = {client.id: Rates() for client in self.cast.clients}
        # What ended claims wait for has a reserve of its own: whose it is, by claim.
        self.waiting_of: dict[str, str] = {}

    def set_fee(self, basis_points: int) -> None:
        """What a job fixes when it is published."""
        self.fee_basis_points = basis_points
        self.world.app.state.settings = self.world.settings.model_copy(
            update={"platform_fee_basis_points": basis_points}
        )

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(
        client=ANY,
        tasks=st.integers(1, 3),
        caps=st.sampled_from([(0, 60), (40, 100), (77, 133)]),
        retakes_max=st.integers(0, 2),
        rise=st.sampled_from([0, 0, 0, 1, 601]),
    )
    def a_job_is_drafted(
        self, client: int, tasks: int, caps: tuple[int, int], retakes_max: int, rise: int
    ) -> None:
        owner = picked(self.cast.clients, client)
        rates = self.rates[owner.id]
        asked = (rates.highest if rates.announced else 40_001) + rise
        wanted = new_job(
            tasks=tasks,
            rate_minor_per_hour=asked,
            prep_seconds_cap=caps[0],
            perform_seconds_cap=caps[1],
            retakes_max=retakes_max,
        )
        made: Json = owner.post("/v1/jobs", wanted)
        roles = [Role(role_id) for role_id in self.world.roles(made)]
        self.jobs.append(Job(made["id"], owner, asked, *caps, retakes_max, roles))

    def publishable(self) -> list[Job]:
        return [job for job in self.jobs if job.unfunded() and not job.is_closed]

    @precondition(lambda self: self.publishable())
    @rule(job=ANY, most=st.sampled_from([None, None, 1]))
    def roles_are_published(self, job: int, most: int | None) -> None:
        """The worst case of each is set aside, or nothing happens at all."""
        now = self.steady()
        wanted = picked(self.publishable(), job)
        rates = self.rates[wanted.client.id]
        paid = rates.highest if rates.announced else wanted.asked_minor_per_hour
        asked = max(wanted.asked_minor_per_hour, paid)
        body = {"roles": most} if most else {}
        path = f"/v1/jobs/{wanted.id}/publish"
        is_cut = not wanted.is_published and wanted.asked_minor_per_hour < paid
        if is_cut:
            refused = wanted.client.refused("POST", path, body)
            assert refused == "409 rate_cut_needs_notice"
            return
        opening = wanted.unfunded()[:most]
        is_rise = not wanted.is_published and asked > paid
        basis_points = wanted.fee_basis_points if wanted.is_published else self.fee_basis_points
        highest = asked if is_rise else paid
        raised = self.open_roles_of(wanted.client) if is_rise else []
        needed = [
            (role.id, self.short_of(role, cost_of(job.longest_seconds, highest, points)))
            for job, role, points in [
                *((each, role, each.fee_basis_points) for each, role in raised),
                *((wanted, role, basis_points) for role in opening),
            ]
        ]
        money = wallet(wanted.client.id)
        if sum(minor for _, minor in needed) > self.books.owed(money):
            assert wanted.client.refused("POST", path, body) == "409 wallet_too_low"
            return
        wanted.client.post(path, body)
        wanted.is_published, wanted.fee_basis_points = True, basis_points
        if is_rise or not rates.announced:
            ahead = RISES_AFTER if is_rise else timedelta()
            rates.announced.append(Rate(asked, now + ahead - A_SECOND, self.world.now + ahead))
        for role_id, minor in needed:
            self.books.book(minor, money, reserve(role_id))
        for role in opening:
            role.state = "open"

    def dues(self) -> Iterator[datetime]:
        yield from super().dues()
        for rates in self.rates.values():
            yield from (rate.latest for rate in rates.announced)

    def short_of(self, role: Role, worst_minor: int) -> int:
        return max(0, worst_minor - self.books.owed(reserve(role.id)))

    def open_roles_of(self, client: Client) -> list[tuple[Job, Role]]:
        return [
            (job, role)
            for job in self.jobs
            if job.client is client
            for role in job.roles
            if role.state == "open"
        ]

    def closable(self) -> list[Job]:
        return [job for job in self.jobs if job.is_published and not job.is_closed]

    @precondition(lambda self: self.closable())
    @rule(job=ANY)
    def a_job_is_closed(self, job: int) -> None:
        """What nobody can claim any more goes back at once; held roles keep theirs."""
        closed = picked(self.closable(), job)
        closed.client.post(f"/v1/jobs/{closed.id}/close", {})
        closed.is_closed = True
        for role in closed.roles:
            if role.state in {"open", "unfunded"}:
                self.give_back(closed, role)
                role.state = "withdrawn"

    def give_back(self, job: Job, role: Role) -> None:
        left = reserve(role.id)
        self.books.book(self.books.owed(left), left, wallet(job.client.id))

    def reserved_for(self, client: Client) -> int:
        roles = (role.id for job in self.jobs if job.client is client for role in job.roles)
        waiting = (claim for claim, owner in self.waiting_of.items() if owner == client.id)
        return sum(self.books.owed(reserve(each)) for each in [*roles, *waiting])
