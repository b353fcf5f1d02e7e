"""The campaign: a probing run finds a flow's points, then each (point × kind) is a run of its own.

After each the fault is over, people repeat what got no answer, sweeps run until all is quiet, and the
oracle looks: every invariant of `verify`, what Stripe itself has moved, what repeats of all requests
answer, and the flow's own end. Only faults that fired count.
"""

import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from marketplace.stripe_sandbox.faults import FaultKind, WebhookFaultKind
from tests.conftest import Scene, on_database
from tests.faults.flow import EVERYTHING, Flow, at_stripe
from tests.faults.flows import FLOWS
from tests.faults.points import Fault, Kind, Point
from tests.faults.zone import (
    Answered,
    FaultZone,
    Launcher,
    Meanwhile,
    Outside,
    Product,
    Undecided,
    Warm,
)
from tests.loopback import Loopback
from tests.reports.conftest import violations
from tests.world import HOUR, World

AT_STRIPE = (
    FaultKind.DROP_BEFORE,
    FaultKind.APPLY_THEN_DROP,
    FaultKind.ERROR_500_AFTER_APPLY,
    FaultKind.TOO_MANY_REQUESTS,
    FaultKind.CONFLICT,
)
REFUSALS: dict[str, tuple[str, ...]] = {
    "POST /v1/transfers": (FaultKind.BALANCE_INSUFFICIENT, FaultKind.ACCOUNT_RESTRICTED),
    "POST /v1/transfers/…/reversals": (FaultKind.BALANCE_INSUFFICIENT,),
    "POST /v1/refunds": (FaultKind.BALANCE_INSUFFICIENT,),
    "POST /v1/payouts": (FaultKind.BALANCE_INSUFFICIENT,),
}
KINDS: dict[str, tuple[str, ...]] = {
    "sql": (
        Kind.KILLED_BEFORE,
        Kind.KILLED_AFTER,
        Kind.CONNECTION_LOST,
        Kind.BACKEND_TERMINATED,
    ),
    "commit": (Kind.KILLED_BEFORE, Kind.KILLED_AFTER, Kind.CONNECTION_LOST, Kind.REPLY_LOST),
    "call": (Kind.KILLED_BEFORE, Kind.KILLED_AFTER, *AT_STRIPE),
    "event": tuple(WebhookFaultKind),
}
# What moves money at Stripe, and by which name of ours it is known there.
MOVED = (("transfers", "payout_id"), ("refunds", "refund_id"), ("payouts", "withdrawal_id"))
# Until all is quiet, time passes in these steps: leases end, polls are due, keys are forgotten.
LEASE_SECONDS = 61
STEPS = (0, 10, LEASE_SECONDS, LEASE_SECONDS, 5 * 60, 5 * 60, HOUR, HOUR, 24 * HOUR, HOUR)
LATE_AFTER = timedelta(minutes=4)
NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Cell:
    """One run of the campaign: a flow with a seed, and what goes wrong at which of its points."""

    flow: str
    seed: int
    point: Point
    kind: str

    def __str__(self) -> str:
        return f"{self.flow}:{self.seed}:{self.point.label}:{self.point.number}:{self.kind}"


@dataclass(frozen=True)
class Ran:
    """What became of a run: every point it came to, and all that is wrong in the end."""

    points: list[Point]
    fired: bool
    violations: list[str]
    # What the database did not let the process do.
    refusals: list[str]


@dataclass(frozen=True)
class Ground:
    """Where flows are played: a PostgreSQL, a sandbox and a launcher of products."""

    server: dict[str, str]
    maintenance: psycopg.Connection
    loopback: Loopback
    launcher: Launcher
    make_scene: Callable[[Callable[[World], Any]], Scene]
    folder: Path
    scenes: dict[tuple[str, int], Scene] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    warmed: set[str] = field(default_factory=set)

    def scene(self, name: str, seed: int) -> Scene:
        """A flow's beginning, played once for each seed."""
        begin = FLOWS[name].begin
        if (name, seed) not in self.scenes:
            # Its amounts come from the seed alone, so that anybody can play it again.
            chance = random.Random(f"{name} {seed}")  # noqa: S311 - to be repeated, not secret
            self.scenes[name, seed] = self.make_scene(lambda world: begin(world, chance))
        return self.scenes[name, seed]

    @contextmanager
    def zone(self, scene: Scene) -> Iterator[FaultZone]:
        number = next(NUMBERS)
        name = f"marketplace_fault_{os.getpid()}_{number}"
        self.maintenance.execute(
            f"CREATE DATABASE {name} TEMPLATE {scene.database} STRATEGY FILE_COPY".encode()
        )
        try:
            with FaultZone(
                owner_url=on_database(self.server["owner"], name),
                app_url=on_database(self.server["app"], name),
                loopback=self.loopback,
                files=self.folder / str(number),
                sandbox=scene.sandbox,
            ) as world:
                yield world
        finally:
            # The server may not have missed a killed process yet, so each is dropped by the next.
            self.drop_used()
            self.used.append(name)

    def drop_used(self) -> None:
        while self.used:
            self.maintenance.execute(f"DROP DATABASE {self.used.pop()}".encode())


def cells_of(name: str, seed: int, points: list[Point]) -> list[Cell]:
    return [
        Cell(name, seed, point, kind) for point in points for kind in _kinds_of(FLOWS[name], point)
    ]


def _kinds_of(flow: Flow, point: Point) -> tuple[str, ...]:
    # Who stops between its last look at the clock and its call is beyond help, and not for long.
    rivals = (Kind.STOPPED_BEFORE,) if flow.rivals and point.what in {"sql", "commit"} else ()
    return KINDS[point.what] + REFUSALS.get(point.label, ()) + rivals


def warm(ground: Ground, name: str, seed: int) -> None:
    """Nothing fails, and nothing is counted: the launcher learns the flow by heart."""
    if name in ground.warmed:
        return
    ground.warmed.add(name)
    flow, scene = FLOWS[name], ground.scene(name, seed)
    with ground.zone(scene) as world:
        cast = scene.cast_in(world)
        product = Warm(ground.launcher, world)
        with world.failing(product):
            flow.play(world, cast)
            world.sweep(*flow.sweeps)
        product.kill()


def probe(ground: Ground, name: str, seed: int, *, bugs: tuple[str, ...] = ()) -> Ran:
    """A run in which nothing fails; it finds the flow's points."""
    return _play(ground, name, seed, None, bugs)


def run(ground: Ground, cell: Cell, *, bugs: tuple[str, ...] = ()) -> Ran:
    return _play(ground, cell.flow, cell.seed, cell, bugs)


def _play(ground: Ground, name: str, seed: int, cell: Cell | None, bugs: tuple[str, ...]) -> Ran:
    flow, scene = FLOWS[name], ground.scene(name, seed)
    with ground.zone(scene) as world:
        cast = scene.cast_in(world)
        if flow.listens:
            world.stripe.listen(ground.launcher.url)
        fault = _planned(world, cell) if cell else None
        product = Product(ground.launcher, world, fault=fault, bugs=bugs)
        stopped = cell is not None and cell.kind == Kind.STOPPED_BEFORE
        story = _Story(world, flow, cast, product, seed)
        rival = _somebody_else(world, flow, scene, seed, product) if stopped else nullcontext()
        try:
            with _noted(story.wrong, "somebody else is stuck"), rival:
                story.tell()
        finally:
            product.kill()
        fired_at_stripe = world.stripe.faults_fired()
        points = story.points + _events(world)
    fired = any(point.fired for point in product.points() if point.fired in set(Kind))
    return Ran(points, fired or fired_at_stripe > 0, story.wrong, product.refusals())


def _planned(world: World, cell: Cell) -> Fault | None:
    """The process's own fault; what becomes of an event is the sandbox's."""
    if cell.point.what == "event":
        world.stripe.webhook_fault(cell.kind, re.escape(cell.point.label))
        return None
    return Fault(cell.point.label, cell.point.number, cell.kind)


def _events(world: World) -> list[Point]:
    told = world.stripe.control("GET", "deliveries")
    return [Point("event", type_) for type_ in sorted({each["type"] for each in told})]


def _somebody_else(
    world: FaultZone, flow: Flow, scene: Scene, seed: int, product: Product
) -> Meanwhile:
    """Through the product in our own process, while the other one stands still."""
    rival, outside = flow.rivals[seed % len(flow.rivals)], Outside(world)
    cast = scene.cast_in(outside)  # type: ignore[arg-type] # it has what callers need of a world
    return Meanwhile(
        product, lambda: rival.act(outside, cast), longest_seconds=rival.longest_seconds
    )


@dataclass
class _Story:
    """One run: the flow, its end once the fault is over, and what is wrong then."""

    world: FaultZone
    flow: Flow
    cast: Any
    product: Product
    seed: int
    points: list[Point] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def tell(self) -> None:
        began = self.world.now
        with _noted(self.wrong, "people are stuck"), self.world.failing(self.product) as answered:
            decided = self._played()
            self.points = self.product.points()
            if not self._settled() and not decided:
                self._played()
                self._settled()
        with _noted(self.wrong, "what was answered is not so"):
            self._repeat(answered)
        with _noted(self.wrong, "it did not end well"):
            self.flow.ended(self.world, self.cast)
        with _noted(self.wrong, "it did not stay so"):
            self.world.advance(LEASE_SECONDS)
            # By then something else is due, too.
            long_ago = self.world.now > began + LATE_AFTER
            self._sweep(EVERYTHING if long_ago else self.flow.sweeps)
            self.flow.ended(self.world, self.cast)
        self.wrong[:0] = _paid_twice(self.world) + [
            f"{name}: {violation}"
            for name, all_ in violations(self.world).items()
            for violation in all_
        ]

    def _played(self) -> bool:
        """False if people gave up for now."""
        try:
            self.flow.play(self.world, self.cast)
        except Undecided:
            return False
        return True

    def _settled(self) -> bool:
        """The fault is over: time passes and sweeps run until the flow is at its end, or never is."""
        for seconds in self._steps():
            if seconds:
                self.world.advance(seconds)
            self._sweep(self.flow.sweeps)
            with suppress(AssertionError, ValueError):
                self.flow.ended(self.world, self.cast)
                return True
        return False

    def _steps(self) -> tuple[int, ...]:
        """With every third seed nobody looks for more than a day; with every other, not at once."""
        if self.flow.may_wait and self.seed % 3 == 0:
            return (25 * HOUR, *STEPS)
        return STEPS[self.seed % 2 == 0 :]

    def _sweep(self, names: tuple[str, ...]) -> None:
        """With every other seed in the other order."""
        self.flow.mend(self.world, self.cast)
        self.world.sweep(*(reversed(names) if self.seed % 2 == 0 else names))

    def _repeat(self, answered: list[Answered]) -> None:
        """What was answered once is answered so again, and has no second effect."""
        for request, answer in answered:
            again = self.world.http.request(**request)
            assert again.status_code == answer.status_code, f"{request['url']}: {again.text}"
            if answer.content and isinstance(answer.json(), dict):
                same = again.json().get("id") == answer.json().get("id")
                assert same, f"{request['url']}: {again.text} is not {answer.text}"


@contextmanager
def _noted(found: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a violation
        found.append(f"{what}: {type(error).__name__}: {error}")


def _paid_twice(world: World) -> list[str]:
    """Counted at Stripe, whatever our own books say."""
    times = Counter(
        (what, each["metadata"].get(name, ""))
        for what, name in MOVED
        for each in at_stripe(world, what)
    )
    return [
        f"Stripe has {count} {what} of {id_}" for (what, id_), count in times.items() if count > 1
    ]
