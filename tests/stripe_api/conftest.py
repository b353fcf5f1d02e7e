"""A real sandbox process per test, the real gateway in front of it, and a real webhook receiver."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_requests import HttpClient
from tests.stripe_judge import judge_answer, judge_event, judge_request

START_SECONDS_MAX = 20
DAY_SECONDS = 24 * 3600
API_KEY = "sk_test_sandbox"


@dataclass
class Sandbox:
    """One sandbox process with its file; it can be killed and started again at its address."""

    state: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None
    http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=10))
    faults: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "marketplace.stripe_sandbox"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--state", str(self.state)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        self.port = int(line.rsplit(":", 1)[1])

    def end(self, how: signal.Signals) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        os.kill(self.process.pid, how)
        self.process.wait(timeout=START_SECONDS_MAX)
        self.process.stdout.close()

    def control(self, method: str, path: str, /, **body: Any) -> Any:
        answer = self.http.request(method, f"{self.url}/_sandbox/{path}", json=body or None)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def pass_time(self, seconds: int) -> None:
        offset_seconds = self.control("GET", "clock")["offset_seconds"]
        self.control("PUT", "clock", offset_seconds=offset_seconds + seconds)

    def fault(self, kind: str, *, path: str = "/v1/transfers", **more: Any) -> None:
        self.control("POST", "faults", method="POST", path=path, kind=kind, **more)

    def complete(self, url: str, outcome: str) -> httpx.Response:
        return self.http.post(url, data={"outcome": outcome})

    def ask(
        self, method: str, path: str, form: str = "", *, key: str | None = None, **headers: str
    ) -> httpx.Response:
        """One raw request in Stripe's wire format; both judges hear what the sandbox takes."""
        sent = {"Authorization": f"Bearer {API_KEY}", **headers}
        if key is not None:
            sent["Idempotency-Key"] = key
        if method == "GET":
            answer = self.http.get(f"{self.url}{path}?{form}", headers=sent)
        else:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            answer = self.http.request(method, self.url + path, content=form, headers=sent)
        if answer.is_success:
            self.faults += judge_request(method, path, form)
        self.faults += judge_answer(method, path, answer.status_code, answer.json())
        return answer


@dataclass
class Receiver:
    """Answers each webhook with the next of `statuses` (then 200) and keeps what came."""

    url: str
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[bytes, str]] = field(default_factory=list)

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for body, _ in list(self.received)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with _running(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def untouched_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One process for all tests that only try what is refused, and so leave nothing behind."""
    with _running(tmp_path_factory.mktemp("untouched")) as running:
        yield running


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[Sandbox]:
    running = Sandbox(folder / "stripe.db")
    running.start()
    try:
        yield running
    finally:
        running.http.close()
        running.end(signal.SIGTERM)
    assert running.faults == []


@pytest.fixture
async def gateway(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StripeGateway]:
    """With both judges listening to all that it says and hears."""
    ask = HttpClient.request

    async def judged(client: HttpClient, method: str, url: Any, **sent: Any) -> httpx.Response:
        asked = httpx.URL(url)
        encoded = sent.get("data") or asked.query.decode()
        sandbox.faults += judge_request(method.upper(), asked.path, encoded)
        answer: httpx.Response = await ask(client, method, url, **sent)
        sandbox.faults += judge_answer(
            method.upper(), asked.path, answer.status_code, answer.json()
        )
        return answer

    monkeypatch.setattr(HttpClient, "request", judged)
    async with StripeGateway(api_key=API_KEY, api_base=sandbox.url) as opened:
        yield opened


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver("")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        kept.received.append((body, handler.headers["Stripe-Signature"]))
        handler.send_response(kept.statuses.pop(0) if kept.statuses else 200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with serving(answer) as url:
        kept.url = f"{url}/hook"
        yield kept
    assert [fault for body, _ in kept.received for fault in judge_event(json.loads(body))] == []


class serving:  # noqa: N801 - reads as what it does in a `with`
    """A loopback server that answers POST and GET by calling `answer`; counts connections."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        opened: list[Any] = []
        self.connections = opened

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                opened.append(self.client_address)

            def do_POST(self) -> None:
                answer(self)

            def do_GET(self) -> None:
                answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def eventually(happened: Callable[[], bool], *, within_seconds: float = 10) -> None:
    deadline = time.monotonic() + within_seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


async def payable_account(sandbox: Sandbox, gateway: StripeGateway, name: str = "ana") -> str:
    """Ana's account with Stripe, onboarded; answers its id."""
    account = await gateway.create_connected_account(
        email=f"{name}@example.test",
        country="US",
        metadata={"performer": name},
        idempotency_key=f"account-{name}",
    )
    link = await gateway.create_onboarding_link(
        account_id=account.id,
        return_url="http://127.0.0.1:9/done",
        refresh_url="http://127.0.0.1:9/again",
        idempotency_key=f"link-{name}",
    )
    assert sandbox.complete(link.url, "complete").status_code == 303
    return account.id


async def fund(gateway: StripeGateway, amount_minor: int, key: str = "capital") -> None:
    await gateway.create_topup(
        amount_minor=amount_minor,
        currency="USD",
        description="Platform capital",
        metadata={},
        idempotency_key=key,
    )
