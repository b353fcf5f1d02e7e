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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from marketplace.stripe_sandbox.faults import FaultKind, WebhookFaultKind
from tests.conftest import Scene, on_database
from tests.faults.flows import FLOWS, Flow
from tests.faults.points import Fault, Kind, Point
from tests.faults.zone import Answered, FaultZone, Launcher, Product, Undecided, Warm
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
REFUSALS = (FaultKind.BALANCE_INSUFFICIENT, FaultKind.ACCOUNT_RESTRICTED)
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
# Until all is quiet, time passes in these steps: leases end, polls are due, keys are forgotten.
LEASE_SECONDS = 61
STEPS = (0, 10, LEASE_SECONDS, LEASE_SECONDS, 5 * 60, 5 * 60, HOUR, HOUR, 24 * HOUR, HOUR)
NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Cell:
    """One run of the campaign: a flow with a seed, and what goes wrong at which of its points."""

    flow: str
    seed: int
    point: Point
    kind: str

    def __str__(self) -> str:
        return f"{self.flow}:{self.seed}:{self.point.number}:{self.kind} ({self.point.label})"


@dataclass(frozen=True)
class Ran:
    """What became of a run: every point it came to, and all that is wrong in the end."""

    points: list[Point]
    fired: bool
    violations: list[str]


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

    def scene(self, name: str, seed: int) -> Scene:
        """A flow's beginning, played once for each seed."""
        begin = FLOWS[name].begin
        if (name, seed) not in self.scenes:
            # Its amounts come from the seed alone, so that anybody can play it again.
            chance = random.Random(f"{name} {seed}")  # noqa: S311
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
    return [Cell(name, seed, point, kind) for point in points for kind in _kinds_of(point)]


def _kinds_of(point: Point) -> tuple[str, ...]:
    moves_money = point.label.startswith("POST /v1/transfers")
    return KINDS[point.what] + (REFUSALS if moves_money else ())


def warm(ground: Ground, name: str, seed: int) -> None:
    """Nothing fails, and nothing is counted: the launcher learns the flow by heart."""
    flow, scene = FLOWS[name], ground.scene(name, seed)
    with ground.zone(scene) as world:
        product = Warm(ground.launcher, world)
        with world.failing(product):
            flow.play(world, scene.cast_in(world))
        product.kill()


def probe(ground: Ground, name: str, seed: int) -> Ran:
    """A run in which nothing fails; it finds the flow's points."""
    return _play(ground, name, seed, None, ())


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
        try:
            found = _played(world, flow, cast, product)
        finally:
            product.kill()
        points = product.points() + _events(world)
        at_stripe = world.stripe.faults_fired()
    fired = any(point.fired for point in points if point.fired in set(Kind))
    return Ran(points, fired or at_stripe > 0, found)


def _planned(world: World, cell: Cell) -> Fault | None:
    """The process's own fault; what becomes of an event is the sandbox's."""
    if cell.point.what == "event":
        world.stripe.webhook_fault(cell.kind, re.escape(cell.point.label))
        return None
    return Fault(cell.point.number, cell.kind)


def _events(world: World) -> list[Point]:
    told = world.stripe.control("GET", "deliveries")
    return [Point(0, "event", type_) for type_ in sorted({each["type"] for each in told})]


def _played(world: FaultZone, flow: Flow, cast: Any, product: Product) -> list[str]:
    """All that is wrong in the end."""
    found: list[str] = []
    later = False
    with _noted(found, "people are stuck"), world.failing(product) as answered:
        try:
            flow.play(world, cast)
        except Undecided:
            later = True
    with _noted(found, "people are stuck after the fault"):
        if not _settled(world, flow, cast) and later:
            flow.play(world, cast)
            _settled(world, flow, cast)
        _repeat(world, answered)
        world.advance(LEASE_SECONDS)
        _sweep(world, flow, cast)
    with _noted(found, "it did not end well"):
        flow.ended(world, cast)
    found += _paid_twice(world)
    found += [
        f"{name}: {violation}" for name, all_ in violations(world).items() for violation in all_
    ]
    return found


@contextmanager
def _noted(found: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a violation
        found.append(f"{what}: {type(error).__name__}: {error}")


def _settled(world: World, flow: Flow, cast: Any) -> bool:
    """The fault is over: time passes and sweeps run until the flow is at its end, or never is."""
    for seconds in STEPS:
        if seconds:
            world.advance(seconds)
        _sweep(world, flow, cast)
        with suppress(AssertionError, ValueError):
            flow.ended(world, cast)
            return True
    return False


def _sweep(world: World, flow: Flow, cast: Any) -> None:
    flow.mend(world, cast)
    world.sweep(*flow.sweeps)


def _repeat(world: World, answered: list[Answered]) -> None:
    """What was answered once is answered so again, and has no second effect."""
    for request, answer in answered:
        again = world.http.request(**request)
        assert again.status_code == answer.status_code, again.text
        if answer.content and isinstance(answer.json(), dict):
            assert again.json().get("id") == answer.json().get("id")


def _paid_twice(world: World) -> list[str]:
    """Counted at Stripe, whatever our own books say."""
    times = Counter(transfer["transfer_group"] for transfer in world.stripe.transfers())
    return [
        f"Stripe has {count} transfers of {group}" for group, count in times.items() if count > 1
    ]
