import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from marketplace.reports import verify
from tests.conftest import Scene
from tests.processes import environment
from tests.world import Client, Json, Person, World


@dataclass(frozen=True)
class Paid:
    """Ana's minute at 74.00 an hour, paid; the job's second role is still open."""

    acme: Client
    ana: Person
    ravi: Person
    finn: Person
    fay: Person
    job: Json
    claim: Json
    run: Json
    payout: Json


def play(world: World) -> Paid:
    acme = world.client("Acme Voice Lab", deposit_minor=100_000)
    ravi = world.reviewer("Ravi")
    finn, fay = world.finance("Finn"), world.finance("Fay")
    world.capital(finn, 500_000)
    ana = world.performer("Ana", onboarded=True)
    job = world.published_job(acme, tasks=2)
    claim = world.accepted_claim(ana, job, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    world.sweep("payouts", "inbox")
    (payout,) = finn.get(f"/v1/payout-runs/{run['id']}/payouts")["items"]
    assert (payout["state"], payout["amount_minor"]) == ("paid", 123)
    return Paid(acme, ana, ravi, finn, fay, job, claim, run, payout)


@pytest.fixture(scope="session")
def after_a_payout(make_scene: Callable[[Callable[[World], Paid]], Scene]) -> Scene:
    return make_scene(play)


@pytest.fixture
def scene(after_a_payout: Scene) -> Scene:
    return after_a_payout


@pytest.fixture
def paid(world: World, scene: Scene) -> Paid:
    found: Paid = scene.cast_in(world)
    return found


@pytest.fixture
def acme(paid: Paid) -> Client:
    return paid.acme


@pytest.fixture
def ravi(paid: Paid) -> Person:
    return paid.ravi


@pytest.fixture
def finn(paid: Paid) -> Person:
    return paid.finn


@pytest.fixture
def fay(paid: Paid) -> Person:
    return paid.fay


def findings(world: World) -> verify.Findings:
    parts = world.parts
    found = world.loopback.run(verify.verify(parts.sessions, parts.gateway, parts.storage))
    assert set(found) == set(verify.CHECKS)
    return found


def violations(world: World) -> dict[str, list[str]]:
    """What `verify` finds now, without the invariants that hold."""
    found = findings(world)
    assert all(finding.unchecked is None for finding in found.values())
    return {name: finding.violations for name, finding in found.items() if finding.violations}


def lift_all_guards(world: World) -> None:
    """What only the owner can do: every trigger and every constraint but the primary keys goes."""
    world.owner_sql("""
        DO $$
        DECLARE
            statement text;
        BEGIN
            FOR statement IN
                SELECT format('ALTER TABLE %I DISABLE TRIGGER USER', relname)
                FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                UNION ALL
                SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
                FROM (
                    -- References first: they lean on the unique ones.
                    SELECT * FROM pg_constraint ORDER BY contype <> 'f'
                ) AS constrained
                WHERE connamespace = 'public'::regnamespace AND contype IN ('f', 'c', 'u', 'x')
                  AND conrelid <> 0
            LOOP
                EXECUTE statement;
            END LOOP;
            FOR statement IN
                SELECT format('DROP INDEX %s', indexrelid::regclass)
                FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                WHERE relnamespace = 'public'::regnamespace AND indisunique AND NOT indisprimary
            LOOP
                EXECUTE statement;
            END LOOP;
        END
        $$
    """)


def program(world: World, *arguments: str) -> tuple[int, str]:
    """`marketplace …`: its exit code and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "marketplace", *arguments],
        env=environment(world),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
