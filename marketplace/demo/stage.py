"""What the demo and the simulation stand on: server processes, commands and time.

They know the product from outside only: its programs and its HTTP API.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from rich.console import Console
from rich.rule import Rule

from marketplace import installation
from marketplace.installation import InstallationError

HOST = "127.0.0.1"
SERVERS = 2
START_SECONDS = 60
STOP_SECONDS = 20
LAST_WORDS = 3

Told = TypeVar("Told")


class PlayBroke(Exception):
    """One line that says what went otherwise than it should."""


class Teller:
    """Tells the story as it happens; between two sentences it shows what it is busy with."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def chapter(self, title: str) -> None:
        self._console.print()
        self._console.print(Rule(f"[bold]{title}", align="left"))

    def say(self, *sentences: Any) -> None:
        for sentence in sentences:
            self._console.print(sentence, soft_wrap=isinstance(sentence, str), highlight=False)

    def rest(self) -> None:
        self._status.stop()

    def busy(self, with_what: str) -> None:
        self._status.update(f"{with_what} …")


@dataclass(frozen=True)
class Server:
    """One `marketplace serve` process and what it said."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-LAST_WORDS:]) or "it said nothing"


@dataclass(frozen=True)
class Clock:
    """The virtual clock of the product and its sandbox."""

    owner_url: str
    stripe_api_base: str

    async def now(self) -> datetime:
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"{self.stripe_api_base}{installation.CONTROL}/clock")
        return datetime.fromtimestamp(answer.raise_for_status().json()["now"], UTC)

    async def move(self, seconds: int) -> None:
        await asyncio.to_thread(
            installation.advance_clock, self.owner_url, self.stripe_api_base, seconds
        )

    async def move_to(self, moment: datetime) -> None:
        """To that moment or a little later; never back."""
        seconds = (moment - await self.now()).total_seconds()
        if seconds > 0:
            await self.move(int(seconds) + 1)


class RealClock:
    """Time that passes by itself."""

    async def move(self, seconds: int) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Stage:
    """Running servers, what they run on, and the address they share."""

    data: Path
    variables: Mapping[str, str]
    public_url: str
    servers: list[Server]
    clock: Clock

    async def first_death(self) -> str:
        """Ends when a server does; answers one line with its last words."""
        while True:
            for server in self.servers:
                code = server.process.poll()
                if code is not None:
                    return f"server {server.number} ended ({code}): {server.last_words()}"
            await asyncio.sleep(0.2)

    async def command(self, *arguments: str) -> str:
        return await command(self.data, self.variables, *arguments)

    async def steer_stripe(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        """Make the sandbox do what Stripe may do at any time."""
        url = f"{self.clock.stripe_api_base}{installation.CONTROL}/{path}"
        async with httpx.AsyncClient(trust_env=False) as http:
            (await http.request(method, url, json=body)).raise_for_status()


@contextmanager
def stage(data: Path, port: int) -> Iterator[Stage]:
    """Parts, servers and clock; all of it stops at the end, however that comes.

    Raises InstallationError.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(_reserved(port))
        port = listener.getsockname()[1]
        parts = stack.enter_context(installation.parts_in(data, virtual_clock=True))
        variables = {**parts, "PUBLIC_URL": f"http://{HOST}:{port}"}
        clock = _clock(variables)
        servers: list[Server] = []
        stack.callback(_stop, servers)
        for number in range(1, SERVERS + 1):
            servers.append(_start(number, data, variables, port))
            _await_listening(servers[-1])
        stack.enter_context(installation.announced(data, variables))
        # From here on a second Ctrl-C must not break off the stopping.
        stack.callback(_deaf_to_signals)
        yield Stage(data, variables, variables["PUBLIC_URL"], servers, clock)


@contextmanager
def _reserved(port: int) -> Iterator[socket.socket]:
    """A free port that only our servers may share, found out before anything is started."""
    with socket.socket() as trial:
        try:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((HOST, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "there is no such port"
            raise InstallationError(
                f"cannot listen on {HOST}:{port}: {why}; choose another --port"
            ) from error
        port = trial.getsockname()[1]
    with socket.socket() as listener:
        # Bound but never listening: it keeps the port ours and gets no connections.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((HOST, port))
        yield listener


def _clock(variables: Mapping[str, str]) -> Clock:
    stripe_api_base = variables.get("STRIPE_API_BASE")
    if stripe_api_base is None:
        raise InstallationError("the demo pays nobody for real: unset STRIPE_API_KEY")
    owner_url = variables.get("MIGRATION_DATABASE_URL")
    if owner_url is None:
        raise InstallationError("set MIGRATION_DATABASE_URL: only the owner moves the clock")
    return Clock(owner_url, stripe_api_base)


def _start(number: int, data: Path, variables: Mapping[str, str], port: int) -> Server:
    folder = data / f"server-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own program
            _program(
                *("serve", "--data", str(folder), "--port", str(port)),
                *("--share-port", "--until-stdin-ends"),
            ),
            env=_environment(variables),
            # Held open by us alone: killed, we take the servers with us.
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            # The terminal's Ctrl-C is for our program, which then stops the servers in order.
            start_new_session=True,
        )
    return Server(number, process, log)


def _program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "marketplace", *arguments]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The application's login alone: neither servers nor commands need the owner's."""
    everything = {**os.environ, **variables}
    everything.pop("MIGRATION_DATABASE_URL", None)
    return everything


def _await_listening(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "listening on " not in server.log.read_text(encoding="utf-8", errors="replace"):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise PlayBroke(f"server {server.number} did not start: {server.last_words()}")
        time.sleep(0.05)


def _stop(servers: list[Server]) -> None:
    for server in servers:
        server.process.terminate()
    for server in servers:
        try:
            server.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
        assert server.process.stdin is not None
        server.process.stdin.close()


def _deaf_to_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def stop_like_ctrl_c() -> None:
    """A plain kill ends the program as Ctrl-C does: with everything it started."""
    # A shell lets its background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


async def command(data: Path, variables: Mapping[str, str], *arguments: str) -> str:
    """What `marketplace …` prints. A failure without output breaks the play."""
    process = _run(variables, *arguments, "--data", str(data))
    try:
        out, complaint = await asyncio.to_thread(process.communicate)
    finally:
        # After a Ctrl-C it still runs, and the thread waits for it; else this does nothing.
        process.kill()
    if not out.strip():
        last = complaint.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise PlayBroke(f"`marketplace {' '.join(arguments)}` failed: {last[0]}")
    return out.decode().strip()


def _run(variables: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        _program(*arguments),
        env=_environment(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


async def play(stage: Stage, story: Coroutine[Any, Any, Told]) -> Told:
    """The story's end, or PlayBroke with a dead server's last words."""
    told = asyncio.ensure_future(story)
    watched = asyncio.ensure_future(stage.first_death())
    try:
        await asyncio.wait({told, watched}, return_when=asyncio.FIRST_COMPLETED)
        if told.done() and isinstance(told.exception(), PlayBroke):
            # A request fails a moment before the death of its server shows.
            await asyncio.wait({watched}, timeout=1)
        if watched.done():
            raise PlayBroke(watched.result())
        return told.result()
    finally:
        told.cancel()
        watched.cancel()
        await asyncio.gather(told, watched, return_exceptions=True)
