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
