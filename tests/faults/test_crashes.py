"""What nobody planned: processes killed at any moment, and the database stopped as rudely as a crash."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from marketplace import installation, migrate
from marketplace.shared.embedded_postgres import EmbeddedPostgres
from tests.faults.campaign import Ground
from tests.faults.test_campaign import TIMES
from tests.faults.zone import FaultZone, Product
from tests.loopback import Loopback
from tests.reports.conftest import violations
from tests.world import World

PERFORMERS = 5
KILLS = 100 if TIMES else 5
# Of virtual time, after which another sender goes on.
LEASE_SECONDS = 61
ROUNDS = 50


def approved_run(world: World) -> str:
    """Five performers' payouts, approved; answers the run."""
    finn, fay, ravi = world.finance("Finn"), world.finance("Fay"), world.reviewer()
    world.capital(finn, 500_000)
    job = world.published_job(world.client(deposit_minor=100_000), tasks=PERFORMERS)
    for number in range(PERFORMERS):
        performer = world.performer(f"Performer {number}", onboarded=True)
        world.accepted_claim(performer, job, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    return str(run["id"])


def send(product: Product) -> None:
    """As a tick does: what fails is tried again by the next one."""
    httpx.post(f"{product.launcher.url}/_sweeps/payouts", trust_env=False, timeout=30)


def each_is_paid_once(world: World) -> None:
    times = Counter(each["metadata"]["payout_id"] for each in world.stripe.transfers())
    assert sorted(times.values()) == [1] * PERFORMERS
    assert world.value("SELECT count(*) FROM payout WHERE state = 'paid'") == PERFORMERS
    assert world.ledger("transfers_in_flight") == 0
    world.sweep("poll_events", "inbox", "funds")
    assert violations(world) == {}


def all_are_paid(world: World) -> bool:
    return bool(world.value("SELECT bool_and(state = 'paid') FROM payout"))


def test_a_sender_killed_at_any_moment_pays_each_once(ground: Ground) -> None:
    scene = ground.make_scene(approved_run)
    chance = random.Random(1)  # noqa: S311 - the same moments every time
    with ground.zone(scene) as world, ThreadPoolExecutor(KILLS) as elsewhere:
        world.stripe.control("PUT", "settings", latency_ms=10)
        product, sending = Product(ground.launcher, world), []
        for _ in range(KILLS):
            sending.append(elsewhere.submit(send, product))
            time.sleep(chance.uniform(0.02, 0.6))
            os.kill(product.pid, signal.SIGKILL)
            world.advance(LEASE_SECONDS)
            # What nobody had taken yet is waiting for the next one.
            product.start_again()
        assert all(is_over(each) for each in sending)
        send_the_rest(world, product)
        product.kill()
        each_is_paid_once(world)


def send_the_rest(world: FaultZone, product: Product) -> None:
    for _ in range(ROUNDS):
        if all_are_paid(world):
            return
        send(product)
        world.advance(LEASE_SECONDS)
    raise AssertionError(world.sql("SELECT state, state_reason, due_at FROM payout"))


def is_over(sending: Future[None]) -> bool:
    """However it ended."""
    error = sending.exception(30)
    return error is None or isinstance(error, httpx.TransportError)


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server that keeps what it has committed, as every one but the tests' does."""
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        migrate.migrate(server.owner_url, server.application_url)
        installation.make_clock_virtual(server.owner_url)
        yield server


def test_the_database_crashes_after_each_transfer_and_each_is_paid_once(
    durable: EmbeddedPostgres, loopback: Loopback, ground: Ground, tmp_path: Path
) -> None:
    with (
        FaultZone(
            owner_url=durable.owner_url,
            app_url=durable.application_url,
            loopback=loopback,
            files=tmp_path / "files",
        ) as world,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        approved_run(world)
        world.stripe.control("PUT", "settings", latency_ms=30)
        product = Product(ground.launcher, world)
        for number in range(1, PERFORMERS + 1):
            sending = elsewhere.submit(send, product)
            wait_for_transfers(world, number)
            durable.stop(immediate=True)
            assert is_over(sending)
            durable.start()
            world.connect_again()
            world.advance(LEASE_SECONDS)
        send_the_rest(world, product)
        product.kill()
        each_is_paid_once(world)


def wait_for_transfers(world: World, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(world.stripe.transfers()) < count and time.monotonic() < deadline:
        time.sleep(0.005)
