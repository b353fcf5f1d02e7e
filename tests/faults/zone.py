"""The fault zone: a world whose people speak to a product in a process of its own, which may die.

The people are patient: what gets no answer, or none that decides, is asked again with the same
Idempotency-Key. Whoever finds the process dead starts a new one, which has no fault. PostgreSQL and
the sandbox stand outside of the zone, and so does the product in our own process, through which the
result is looked at.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.faults.points import Fault, Point, read_points
from tests.processes import PROJECT, environment
from tests.world import World

TRIES = 6
# A product that is silent for so long is taken for dead; none of our faults is that slow.
SILENCE_SECONDS = 30.0
# Some faults hold an event back until another one comes, and there may be none.
TOLD_WITHIN_SECONDS = 4.0
REFUSED = re.compile(
    r"psycopg\.errors\.(\w*(?:Violation|Privilege|RaiseException|ForeignKey)\w*)[^:]*: (.*?)\\n"
)
UNDECIDED = {409, 429, 500, 502, 503, 504}
# A request, as a client's `request` takes it, and what it was answered.
Answered = tuple[dict[str, Any], httpx.Response]


class Launcher:
    """The process that forks products, and the one socket that they all serve."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self.listener.getsockname())
        descriptor = self.listener.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.launcher", str(descriptor)],
            cwd=PROJECT,
            pass_fds=[descriptor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.told() == "ready"

    def fork(self, order: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.told())

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        self.listener.close()


class Product:
    """One process of the product after the other; only the first one has the fault."""

    def __init__(
        self,
        launcher: Launcher,
        world: World,
        *,
        fault: Fault | None = None,
        bugs: tuple[str, ...] = (),
    ) -> None:
        self.launcher, self.bugs = launcher, bugs
        self.environment = environment(world) | {"PUBLIC_URL": launcher.url}
        self.folder = Path(f"{world.settings.storage_url}-product")
        self.folder.mkdir(parents=True)
        self.started = 0
        self._start(fault)

    def _start(self, fault: Fault | None) -> None:
        self.started += 1
        order = {
            "environment": self.environment,
            "fault": asdict(fault) if fault else None,
            "bugs": self.bugs,
            "told": str(self.folder / f"points-{self.started}"),
            "log": str(self.folder / "log"),
        }
        self.pid = self.launcher.fork(order)
        self.handle = os.pidfd_open(self.pid)

    def is_dead(self, *, within_seconds: float = 0) -> bool:
        return bool(select.select([self.handle], [], [], within_seconds)[0])

    def start_again(self) -> None:
        """If it is dead, there is a new one."""
        if self.is_dead(within_seconds=0.1):
            os.close(self.handle)
            self._start(None)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.is_dead(within_seconds=10)
        os.close(self.handle)

    def points(self) -> list[Point]:
        """What the first process came to."""
        return read_points(self.folder / "points-1")

    def refusals(self) -> list[str]:
        """What the database refused, in its own words."""
        text = (self.folder / "log").read_text()
        return [f"{kind}: {words}" for kind, words in REFUSED.findall(text)]

    def is_stopped(self) -> bool:
        with suppress(OSError):
            # The state follows the name, which may hold anything.
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][:1] == "T"
        return False


class Warm(Product):
    """The launcher's own process: what it compiles and loads, it need not once it is forked."""

    def _start(self, fault: Fault | None) -> None:
        order = {"environment": self.environment, "bugs": (), "told": None}
        self.pid = self.launcher.fork(order)

    def kill(self) -> None:
        httpx.post(f"{self.launcher.url}/_end", trust_env=False)
        assert self.launcher.told() == "warm"


class Meanwhile:
    """While the product stands still, somebody else does something; then it goes on.

    Whoever waits for the one that stands still is given a moment, and is still there afterwards.
    """

    def __init__(
        self, product: Product, rival: Callable[[], None], *, longest_seconds: float
    ) -> None:
        self.product, self.rival, self.longest_seconds = product, rival, longest_seconds
        self.over = threading.Event()
        self.threads = ThreadPoolExecutor(2)

    def __enter__(self) -> Self:
        self.watching = self.threads.submit(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watching.result()
        self.threads.shutdown()

    def _watch(self) -> None:
        while not self.product.is_stopped():
            if self.over.wait(0.005):
                return
        doing = self.threads.submit(self.rival)
        wait([doing], self.longest_seconds)
        os.kill(self.product.pid, signal.SIGCONT)
        doing.result()


class Outside:
    """A world as people outside of its fault zone see it, at any time."""

    def __init__(self, world: "FaultZone") -> None:
        self.world, self.loopback, self.stripe = world, world.loopback, world.stripe
        self.http, self.url = world.loopback.http, world.loopback.product.url
        self.sql, self.value, self.advance = world.sql, world.value, world.advance

    def sweep(self, *names: str) -> int:
        return World.sweep(self.world, *names)


class Undecided(Exception):
    """No answer that decides anything, however often it was asked: people come back later."""


class Patient:
    """An HTTP client that repeats what was not decided, to whatever process is there by then."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.http = httpx.Client(trust_env=False, timeout=SILENCE_SECONDS)
        self.answered: list[Answered] = []

    def request(self, method: str, url: str, **rest: Any) -> httpx.Response:
        for _ in range(TRIES):
            with suppress(httpx.TransportError):
                answer = self.http.request(method, url, **rest)
                if answer.status_code not in UNDECIDED or is_final(answer):
                    self.answered.append(({"method": method, "url": url, **rest}, answer))
                    return answer
            self.product.start_again()
        raise Undecided(f"{method} {url}")


def is_final(answer: httpx.Response) -> bool:
    return answer.status_code == 409 and answer.json()["code"] != "request_in_flight"


class FaultZone(World):
    """A world in which, for a while, all that people and sweeps do happens in a failing process."""

    # The failing one, as long as it matters.
    product: Product | None = None

    @contextmanager
    def failing(self, product: Product) -> Iterator[list[Answered]]:
        """Answers every keyed request with its answer, to be repeated to the product outside."""
        outside = self.http, self.url
        patient = Patient(product)
        self.product, self.http, self.url = product, patient, product.launcher.url  # type: ignore[assignment] # a client, but patient
        answered: list[Answered] = []
        try:
            yield answered
        finally:
            patient.http.close()
            self.product, (self.http, self.url) = None, outside
            answered += [
                ({**request, "url": request["url"].replace(product.launcher.url, self.url)}, answer)
                for request, answer in patient.answered
                if "Idempotency-Key" in (request.get("headers") or {})
            ]

    def connect_again(self) -> None:
        """After the database was away."""
        self._owner.close()
        self._app.close()
        self._owner = psycopg.connect(self.owner_url, autocommit=True, row_factory=dict_row)
        self._app = self.connection(autocommit=True)

    def sweep(self, *names: str) -> int:
        if self.product is None:
            return super().sweep(*names)
        done = 0
        for name in names:
            answer = self.http.request("POST", f"{self.url}/_sweeps/{name}")
            assert answer.is_success, answer.text
            done = answer.json()
        return done


def until_told(world: World) -> None:
    """Stripe's events are delivered, or lost; whoever has died meanwhile is started again."""
    assert isinstance(world, FaultZone)
    deadline = time.monotonic() + TOLD_WITHIN_SECONDS
    while world.stripe.control("GET", "state")["webhooks_owed"] and time.monotonic() < deadline:
        if world.product is not None and world.product.is_dead(within_seconds=0.02):
            world.product.start_again()
