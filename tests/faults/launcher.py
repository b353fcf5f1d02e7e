"""Starts products that fail on purpose: `python -m tests.faults.launcher LISTENING_SOCKET`.

It imports everything once and then forks for each line on its standard input, so that a real process
that is really killed costs milliseconds. Each serves with the product's own `serve` on the one
socket that it was given: what comes in between two of them waits there. An order without a place to
tell of points is served by the launcher itself, until it is ended: what that has compiled, its
children need not. It ends with its input.
"""

import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from marketplace import installation, scheduler, server
from marketplace.app import parts_of
from marketplace.shared.database import driver_url
from marketplace.shared.settings import Settings
from marketplace.stripe_api import asking
from tests.faults import planted
from tests.faults.planted import replace
from tests.faults.points import Fault, Kind, Points
from tests.payouts.killed_sender import SHORT_LEASE
from tests.world import APP, ENGINE, STORYS_DATABASE


class Server(server._Server):  # noqa: SLF001 - it is started by name
    """The product's own; it can be ended without a signal, for what was warmed up goes on."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        APP.state.server = self


def prepared(settings: Settings) -> FastAPI:
    """The product with a way to say when it sweeps, instead of a clock that ticks."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _, there = ENGINE.dialect.create_connect_args(driver_url(settings.database_url))
        STORYS_DATABASE.update(there)
        async with parts_of(settings, engine=ENGINE) as parts:
            app.state.settings = settings
            app.state.parts = parts
            app.state.sessions = parts.sessions
            app.state.gateway = parts.gateway
            app.state.storage = parts.storage
            yield

    APP.router.lifespan_context = lifespan
    return APP


@APP.post("/_sweeps/{name}")
async def sweep(name: str, request: Request) -> int:
    return await scheduler.SWEEPS[name].run(request.app.state.parts)


@APP.post("/_end")
async def end(request: Request) -> None:
    request.app.state.server.should_exit = True


def serve(listener: socket.socket, order: dict[str, Any]) -> None:
    """With what the order wants to go wrong."""
    settings = installation.settings_from(order["environment"], log_level="WARNING")
    for bug in order["bugs"]:
        planted.BUGS[bug].plant()
    if order["told"]:
        fault = Fault(**order["fault"]) if order["fault"] else None
        if fault and fault.kind == Kind.STOPPED_BEFORE:
            # So that a story outlives it in no time.
            replace(asking, "LEASE", SHORT_LEASE)
        Points(fault, Path(order["told"]), settings).install()
    server.serve(settings, listener.dup(), sweeps=False)


def in_a_process_of_its_own(listener: socket.socket, order: dict[str, Any]) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())
        serve(listener, order)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    replace(server, "create_app", lambda settings, **_: prepared(settings))
    replace(server, "_Server", Server)
    # Stories say themselves who is told of what.
    replace(server, "register_webhooks", lambda _: None)
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    answer("ready")
    child = 0
    for line in sys.stdin:
        order = json.loads(line)
        if order["told"]:
            child = in_a_process_of_its_own(listener, order)
            answer(child)
        else:
            answer(os.getpid())
            serve(listener, order)
            # What is there by now is never looked through again, nor copied for it in a child.
            gc.collect()
            gc.freeze()
            answer("warm")
    if child:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def answer(words: object) -> None:
    """To whoever started us, who waits for it."""
    os.write(ANSWERS, f"{words}\n".encode())


if __name__ == "__main__":
    # What the product itself prints goes elsewhere.
    ANSWERS = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    main()
