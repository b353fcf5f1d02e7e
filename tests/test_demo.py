"""The whole way of a cent in real processes: told once to the end, and broken off by kill -9."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from marketplace.demo.cast import SOMEWHERE, Api, Operator, join
from marketplace.reports.verify import CHECKS
from tests.conftest import on_database
from tests.loopback import Loopback
from tests.processes import END_SECONDS, PROJECT, environment
from tests.world import Client, Json, Person, Stripe, World

pytestmark = pytest.mark.story

DEMO_SECONDS = 400
SETTLED_SECONDS = 90
LEASE_SECONDS = 61
PAYOUTS = 8
DEPOSITS = 6
CLAIMERS = 12


@pytest.fixture
def bare(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A program's environment: with nothing in it, or with a new database on DATABASE_URL's server."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    kept["PYTHONPATH"] = str(PROJECT)
    if not os.environ.get("DATABASE_URL"):
        yield kept
        return
    maintenance: psycopg.Connection = request.getfixturevalue("maintenance")
    name = f"marketplace_program_{os.getpid()}"
    maintenance.execute(f"CREATE DATABASE {name}".encode())
    urls = ("DATABASE_URL", "MIGRATION_DATABASE_URL")
    yield kept | {url: on_database(os.environ[url], name) for url in urls}
    maintenance.execute(f"DROP DATABASE {name}".encode())


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "marketplace", *arguments]


def ran(environment: dict[str, str], *arguments: str) -> str:
    """What the program prints; it must end well."""
    done = subprocess.run(
        command(*arguments),
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pay(line: Json) -> int:
    exact: int = (2 * line["seconds"] * line["rate_minor_per_hour"] + 3_600) // 7_200
    return exact


@contextmanager
def demo_left_running(environment: dict[str, str], folder: Path) -> Iterator[tuple[str, Json]]:
    """What it says to people and to programs, once the story is told; Ctrl-C ends it well."""
    says, tells = folder / "says.txt", folder / "tells.json"
    arguments = ("demo", "--json", "--data", str(folder / "data"), "--port", "0")
    with says.open("w") as stderr, tells.open("w") as stdout:
        demo = subprocess.Popen(command(*arguments), env=environment, stdout=stdout, stderr=stderr)
    try:
        deadline = time.monotonic() + DEMO_SECONDS
        while "Follow a payout" not in says.read_text():
            assert demo.poll() is None, says.read_text()
            assert time.monotonic() < deadline, says.read_text()
            time.sleep(0.2)
        yield says.read_text(), json.loads(tells.read_text())
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(END_SECONDS) == 0


def test_the_demo_adds_up_and_serves_the_readmes_client(
    bare: dict[str, str], tmp_path: Path
) -> None:
    with demo_left_running(bare, tmp_path) as (said, told):
        it_adds_up(told)
        exported = re.findall(r"export (MARKETPLACE_\w+)=(\S+)", said)
        the_readmes_client_downloads_a_take(bare | dict(exported), tmp_path)


def it_adds_up(told: Json) -> None:
    """Worked out here once more, from what the demo says it saw."""
    lines, counts = told["lines"], told["counts"]
    claims, auditions = ([line for line in lines if line[of]] for of in ("claim", "audition"))
    assert [line["pay_minor"] for line in lines] == [pay(line) for line in lines]
    gross = sum(line["pay_minor"] for line in lines)
    sent = sum(transfer["amount_minor"] for transfer in told["transfers"])
    assert sent + told["owed_minor"] == gross
    assert told["owed_minor"] > 0, "one is held, one came back"
    assert told["gross_minor"] == gross
    assert told["approved_seconds"] == sum(line["seconds"] for line in lines)
    assert told["fees_minor"] == sum(
        (2 * line["pay_minor"] * 1_500 + 10_000) // 20_000 for line in claims
    )
    assert all((line["claim"] is None) != (line["audition"] is None) for line in lines)
    assert told["ledger"] == {"USD": 0}
    assert told["problems"] == []
    assert set(told["invariants"].values()) == {"ok"}
    # The shape of the story: four performers, six tasks, one of each special fate.
    assert counts["claims"] == len(claims) == len({line["claim"] for line in claims})
    assert counts["auditions"] == len(auditions) == counts["performers"] == 4
    paid_to = {transfer["destination"] for transfer in told["transfers"]}
    if counts["payout_runs"] == 1:
        assert counts["transfers"] == len(paid_to) == 2
    else:
        # A Monday passed while a slow machine played: some are paid in two runs.
        assert counts["transfers"] >= len(paid_to) >= 2
    assert counts["tasks"] == counts["claims"] == 6
    assert counts["accepted"] + counts["refused"] + counts["expired"] == counts["claims"]
    assert counts["retakes"] == counts["refused"] == counts["expired"] == 1
    assert counts["claims_refused_in_race"] == counts["performers"] - 1
    assert counts["downloads"] == counts["accepted"]
    assert {line["rate_minor_per_hour"] for line in auditions} == {3_000}
    rates = {line["rate_minor_per_hour"] for line in claims}
    assert rates == {7_400, 8_000}, "the rise in the middle of the story priced later claims"


def the_readmes_client_downloads_a_take(environment: dict[str, str], folder: Path) -> None:
    """Its own lines, word for word but for `make`."""
    lines = (PROJECT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    simulate = [*command("simulate", "JOB"), "--data", str(folder / "data")]
    lines = lines.replace(
        """["make", "simulate", f"JOB={job['id']}"]""",
        str(simulate).replace("'JOB'", "job['id']"),
    )
    assert "make" not in lines.replace("/make", "")
    assert len(lines.strip().splitlines()) <= 15
    subprocess.run([sys.executable, "-c", lines], env=environment, cwd=folder, check=True)
    assert (folder / "take.flac").read_bytes().startswith(b"fLaC")


class Outside(World):
    """A story whose product and whose Stripe are processes of their own once they are started."""

    def __init__(self, *, stripe_port: int, port: int, **given: Any) -> None:
        super().__init__(**given)
        self.port, self.stripe_port = port, stripe_port
        stripe_url = f"http://127.0.0.1:{stripe_port}"
        self.stripe = Stripe(self.http, stripe_url)
        self.settings = self.settings.model_copy(
            update={"stripe_api_base": stripe_url, "public_url": f"http://127.0.0.1:{port}"}
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Processes:
    """A sandbox and two servers with their sweeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sandbox: subprocess.Popen[str] | None = None
        self.servers: list[subprocess.Popen[str]] = []

    def start_sandbox(self, port: int) -> None:
        state = str(self.folder / "stripe.sqlite")
        arguments = ("--port", str(port), "--state", state)
        self.sandbox = self._started("-m", "marketplace.stripe_sandbox", *arguments)

    def start_servers(self, world: Outside) -> None:
        for number in (1, 2):
            folder = str(self.folder / f"server-{number}")
            arguments = ("--port", str(world.port), "--share-port", "--data", folder)
            server = self._started(
                *("-m", "marketplace", "serve", *arguments), env=environment(world)
            )
            self.servers.append(server)
        world.url = world.settings.public_url

    def _started(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=env, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on ")
        return process

    def all(self) -> list[subprocess.Popen[str]]:
        return [*self.servers, *([self.sandbox] if self.sandbox else [])]

    def kill(self) -> None:
        """All at once, as when the power fails."""
        for process in self.all():
            os.kill(process.pid, signal.SIGKILL)
        assert {process.wait(END_SECONDS) for process in self.all()} == {-signal.SIGKILL}
        self._forget()

    def stop(self) -> None:
        for process in self.all():
            process.terminate()
        for process in self.all():
            process.wait(END_SECONDS)
        self._forget()

    def _forget(self) -> None:
        for process in self.all():
            assert process.stdout is not None
            process.stdout.close()
        self.servers, self.sandbox = [], None


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def outside(
    database: dict[str, str], loopback: Loopback, processes: Processes, tmp_path: Path
) -> Iterator[Outside]:
    stripe_port, port = free_port(), free_port()
    processes.start_sandbox(stripe_port)
    with Outside(
        stripe_port=stripe_port,
        port=port,
        owner_url=database["owner"],
        app_url=database["app"],
        loopback=loopback,
        files=tmp_path / "files",
    ) as made:
        yield made
        # Before the database goes.
        processes.stop()


class Load:
    """Requests that are repeated with the same key until they are answered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answered: dict[tuple[str, str], tuple[int, str]] = {}
        self.waiting: list[tuple[str, str, str, Json]] = []
        self._lock = threading.Lock()

    def add(self, caller: Person | Client, path: str, key: str, body: Json) -> None:
        assert caller.token
        self.waiting.append((caller.token, path, key, body))

    def run(self) -> None:
        """Ask all that has no answer yet; what is cut off waits for the next run."""
        left, self.waiting = self.waiting, []
        lanes = [threading.Thread(target=self._ask, args=(left[n::6],)) for n in range(6)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def _ask(self, asks: list[tuple[str, str, str, Json]]) -> None:
        with httpx.Client(trust_env=False, timeout=30) as http:
            for ask in asks:
                token, path, key, body = ask
                headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
                try:
                    answer = http.post(self.world.url + path, json=body, headers=headers)
                except httpx.TransportError:
                    answer = None
                with self._lock:
                    if answer is None or answer.status_code >= 500:
                        self.waiting.append(ask)
                    else:
                        self.answered[(token, key)] = (answer.status_code, answer.text)


def wait_until(what: str, reached: Callable[[], bool], seconds: float = SETTLED_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_kill_all_in_the_middle_of_everything(
    outside: Outside, processes: Processes, tmp_path: Path
) -> None:
    world = outside
    ravi, finn, fay = world.reviewer(), world.finance("Finn"), world.finance("Fay")
    acme = world.client(deposit_minor=2_000_000)
    world.capital(finn, 500_000)
    owed = world.published_job(acme, tasks=PAYOUTS)
    for number in range(PAYOUTS):
        performer = world.performer(f"Performer {number}", onboarded=True)
        world.accepted_claim(performer, owed, ravi)
    run = finn.post("/v1/payout-runs", {"currency": "USD"})
    fay.post(f"/v1/payout-runs/{run['id']}/approve")
    roles = world.roles(world.published_job(acme, tasks=60))
    claimers = [world.performer(f"Claimer {number}") for number in range(CLAIMERS)]

    load = Load(world)
    for turn, role in enumerate(roles):
        for claimer in (claimers[turn % CLAIMERS], claimers[(turn + 5) % CLAIMERS]):
            load.add(claimer, "/v1/claims", f"claim-{role}", {"role_id": role})
    for number in range(DEPOSITS):
        asked = {"amount_minor": 1_000 + number, "success_url": SOMEWHERE}
        load.add(acme, "/v1/wallet/deposits", f"deposit-{number}", asked)

    world.stripe.control("PUT", "settings", latency_ms=60)
    kept: dict[tuple[str, str], tuple[int, str]] = {}
    for transfers in (1, 4, 6):
        processes.start_servers(world)
        world.advance(LEASE_SECONDS)
        client = threading.Thread(target=load.run)
        client.start()
        wait_until("money moves", partial(has_sent, world, transfers))
        processes.kill()
        client.join()
        kept |= load.answered
        processes.start_sandbox(world.stripe_port)

    processes.start_servers(world)
    world.stripe.control("PUT", "settings", latency_ms=0)
    load.run()
    assert load.waiting == []
    assert all(load.answered[ask] == answer for ask, answer in kept.items())
    pay_for_deposits(world, acme)

    def settled() -> bool:
        world.advance(LEASE_SECONDS)
        with suppress(httpx.TransportError):
            world.sweep("poll_events", "poll_deposits", "poll_topups", "inbox")
        return not world.value(
            "SELECT (SELECT count(*) FROM payout WHERE state <> 'paid')"
            " + (SELECT count(*) FROM deposit WHERE state NOT IN ('credited', 'available'))"
            " + (SELECT count(*) FROM stripe_event WHERE handled_at IS NULL)"
        )

    wait_until("all is settled", settled)
    paid = Counter(transfer["metadata"]["payout_id"] for transfer in world.stripe.transfers())
    assert len(paid) == PAYOUTS
    assert set(paid.values()) == {1}
    assert world.value("SELECT count(*) FROM payout_attempt") == PAYOUTS
    assert world.value("SELECT count(*) FROM deposit") == DEPOSITS + 1
    nothing_acknowledged_is_lost(world, load)
    assert ran(environment(world), "verify", "--data", str(tmp_path)).count("ok  ") == len(CHECKS)


def sent(world: World) -> int:
    return len(world.stripe.transfers())


def has_sent(world: World, transfers: int) -> bool:
    return sent(world) >= transfers


def pay_for_deposits(world: World, acme: Client) -> None:
    waiting = [
        deposit
        for deposit in acme.get("/v1/wallet/deposits", limit=100)["items"]
        if deposit["state"] == "awaiting_payment"
    ]
    assert len(waiting) == DEPOSITS
    for deposit in waiting:
        world.stripe.complete(deposit["checkout_url"], "card")


def nothing_acknowledged_is_lost(world: World, load: Load) -> None:
    """Every 201 has its row, and every row of a claim was somebody's 201."""
    claims = {
        json.loads(text)["id"]
        for (_, key), (status, text) in load.answered.items()
        if key.startswith("claim-") and status == 201
    }
    made = world.sql(
        "SELECT claim.id FROM claim JOIN role ON role.id = role_id WHERE claim.state = 'active'"
    )
    assert {str(row["id"]) for row in made} == claims
    assert len(claims) == 3 * CLAIMERS
    assert {status for status, _ in load.answered.values()} == {201, 409}


class TestADataFolder:
    """`serve` with everything of its own, killed with everything of its own."""

    def serve(self, environment: dict[str, str], data: Path) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            command("serve", "--virtual-clock", "--port", "0", "--data", str(data)),
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        return process, line.removeprefix("listening on ").strip()

    def test_what_was_acknowledged_outlives_kill_9(
        self, bare: dict[str, str], tmp_path: Path
    ) -> None:
        data = tmp_path / "data"
        process, url = self.serve(bare, data)
        code = ran(bare, "invite-operator", "--data", str(data)).strip()
        told = asyncio.run(bring_money_in(url, code))
        kill_family(process)

        process, url = self.serve(bare, data)
        try:
            # The events of a killed sandbox may be lost; the poller looks half a minute later.
            ran(bare, "clock", "--advance", "31s", "--data", str(data))
            for sweep in ("poll_deposits", "poll_topups"):
                ran(bare, "sweep", sweep, "--data", str(data))
            assert asyncio.run(money_is_in(url, told)) == 50_000
            verified = ran(bare, "verify", "--data", str(data))
            assert verified.count("ok  ") == len(CHECKS)
        finally:
            process.terminate()
            assert process.wait(END_SECONDS) == 0, "and it stops what it started"
            assert not (data / "running.env").exists()
            assert process.stdout is not None
            process.stdout.close()

    def test_killed_alone_it_takes_all_that_it_started_with_it(
        self, bare: dict[str, str], tmp_path: Path
    ) -> None:
        process, _ = self.serve(bare, tmp_path / "data")
        family = family_of(process)
        assert len(family) > 1
        process.kill()
        process.wait(END_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
        deadline = time.monotonic() + END_SECONDS
        while (left := [pid for pid in family if is_running(pid)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []


async def bring_money_in(url: str, code: str) -> dict[str, str]:
    """A top-up and a deposit, acknowledged a moment ago: nothing of them is booked yet."""
    api = Api(url)
    operator = Operator(**vars(await join(api, code, "Olga")))
    finn = await operator.invite("finance", "Finn")
    client = await operator.post("/v1/clients", {"name": "Acme", "currency": "USD"})
    member = await join(api, client["invite_code"], "Acme")
    deposit = await member.post(
        "/v1/wallet/deposits", {"amount_minor": 50_000, "success_url": SOMEWHERE}
    )
    topup = await finn.post("/v1/topups", {"amount_minor": 70_000, "currency": "USD"})
    await api.fill_in(deposit["checkout_url"], "card")
    await api.aclose()
    return {"finn": finn.token, "topup": topup["id"], "member": member.token}


async def money_is_in(url: str, told: dict[str, str]) -> int:
    api = Api(url)
    deadline = time.monotonic() + SETTLED_SECONDS
    while time.monotonic() < deadline:
        topup = await api.call("GET", f"/v1/topups/{told['topup']}", told["finn"])
        wallet = await api.call("GET", "/v1/wallet", told["member"])
        if topup["state"] == "succeeded" and wallet["balance_minor"]:
            break
        await asyncio.sleep(0.2)
    await api.aclose()
    balance: int = wallet["balance_minor"]
    return balance


def family_of(process: subprocess.Popen[str]) -> list[int]:
    """The process and all that it started, PostgreSQL and the sandbox as well."""
    family = [process.pid]
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid="],  # noqa: S607 - wherever the system keeps it
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    for member in family:
        family += [pid for pid, parent in pairs if parent == member]
    return family


def is_running(pid: int) -> bool:
    """A zombie that nobody has collected yet has ended, too."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)],  # noqa: S607 - wherever the system keeps it
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()[:1] not in {"", "Z"}


def kill_family(process: subprocess.Popen[str]) -> None:
    for member in family_of(process):
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    assert process.wait(END_SECONDS) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
