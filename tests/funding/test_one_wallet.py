"""Everybody at one wallet at once: two real servers, many connections, disputes in between."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.processes import served
from tests.reports.conftest import violations
from tests.world import DAY, Client, Json, Person, World, new_job

DEPOSITS = 5
DEPOSIT_MINOR = 20_000
JOBS = 24
REFUNDS = 24
CONNECTIONS = 16


@pytest.fixture
def servers(world: World, tmp_path: Path) -> Iterator[list[str]]:
    with served(world, tmp_path / "one") as one, served(world, tmp_path / "two") as two:
        yield [one, two]


@pytest.fixture
def acme(world: World, finn: Person) -> Client:
    """1,000.00 in five deposits; the platform has enough to bear what is lost."""
    acme = world.client("Acme Voice Lab")
    for _ in range(DEPOSITS):
        world.deposit(acme, DEPOSIT_MINOR)
    world.capital(finn, 200_000)
    world.advance(3 * DAY)
    world.sweep("funds")
    return acme


def asks(acme: Client) -> list[tuple[str, Json]]:
    """Publishing roles for more than is there, and asking for more back than is there."""
    drafts = [acme.post("/v1/jobs", new_job(title=f"Job {number}")) for number in range(JOBS)]
    wanted: list[tuple[str, Json]] = [(f"/v1/jobs/{job['id']}/publish", {}) for job in drafts] + [
        ("/v1/refunds", {"amount_minor": 7_000 + number, "currency": "USD"})
        for number in range(REFUNDS)
    ]
    # Mixed, and the same each time.
    return [wanted[number * 7 % len(wanted)] for number in range(len(wanted))]


@pytest.mark.parametrize("ends", [("won", "lost"), ("lost", "lost")])
def test_publishes_refunds_and_disputes_never_take_it_below_zero(
    world: World, acme: Client, servers: list[str], ends: tuple[str, str]
) -> None:
    wanted = asks(acme)
    payments = [row["id"] for row in world.sql("SELECT payment_intent_id AS id FROM deposit")]

    with httpx.Client(trust_env=False, timeout=60) as http:

        def ask(number: int) -> str:
            path, body = wanted[number]
            headers = {
                "Authorization": f"Bearer {acme.token}",
                "Idempotency-Key": f"ask {number}",
            }
            while True:
                server = servers[number % len(servers)]
                answer = http.post(server + path, json=body, headers=headers)
                # Who waited too long for a lock, or met another in its way, asks again.
                if answer.status_code != 503:
                    break
            what = "refund" if path == "/v1/refunds" else "publish"
            return f"{what} {answer.status_code} {answer.json().get('code', '')}".strip()

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            first = [pool.submit(ask, number) for number in range(len(wanted) // 3)]
            opened = [
                world.stripe.control("POST", "disputes", payment_intent=payment)["id"]
                for payment in payments[:2]
            ]
            second = [
                pool.submit(ask, number) for number in range(len(wanted) // 3, 2 * len(wanted) // 3)
            ]
            for _ in range(4):
                world.sweep("poll_events", "inbox", "refunds")
            for dispute, end in zip(opened, ends, strict=True):
                world.stripe.control("PUT", f"disputes/{dispute}", to=end)
            third = [
                pool.submit(ask, number) for number in range(2 * len(wanted) // 3, len(wanted))
            ]
            for _ in range(6):
                world.sweep("poll_events", "inbox", "disputes", "refunds")
            answers = Counter(each.result() for each in (*first, *second, *third))

    allowed = {
        "publish 200",
        "publish 409 wallet_too_low",
        "refund 201",
        "refund 409 wallet_too_low",
        "refund 409 refunds_paused",
        "refund 409 debt_first",
        "refund 409 deposits_do_not_cover",
    }
    assert set(answers) <= allowed, answers
    assert answers["publish 200"] + answers["refund 201"] > 0
    for _ in range(3):
        # What was put off meanwhile is done now.
        world.advance(600)
        world.sweep("poll_events", "inbox", "disputes", "refunds")
    assert acme.wallet_minor >= 0
    assert world.value("SELECT count(*) FROM account_balance WHERE balance_minor < 0") == 0
    ended = {row["state"] for row in world.sql("SELECT state FROM dispute")}
    assert ended == set(ends)
    assert world.ledger("disputes_receivable") == 0
    assert world.ledger("wallet_disputed", acme.id) == 0
    assert world.ledger("refunds_in_flight") == 0
    # All that came in is somewhere: in the wallet, reserved, given back, or lost.
    assert violations(world) == {}
