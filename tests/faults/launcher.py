"""Starts products that fail on purpose: `python -m tests.faults.launcher LISTENING_SOCKET`.

It imports everything once and then forks for each line on its standard input, so that a real process
that is really killed costs milliseconds. Each serves with the product's own `serve` on the one
socket that it was given: what comes in between two of them waits there. It ends with its input.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from marketplace import installation, scheduler, server
from marketplace.app import parts_of
from marketplace.shared.settings import Settings
from tests.faults import planted
from tests.faults.points import Fault, Points
from tests.world import APP


def with_sweeps(app: FastAPI, settings: Settings) -> FastAPI:
    """The product with a way to say when it sweeps, instead of a clock that ticks."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with parts_of(settings) as parts:
            app.state.settings = settings
            app.state.parts = parts
            app.state.sessions = parts.sessions
            app.state.gateway = parts.gateway
            app.state.storage = parts.storage
            yield

    app.router.lifespan_context = lifespan
    return app


@APP.post("/_sweeps/{name}")
async def sweep(name: str, request: Request) -> int:
    return await scheduler.SWEEPS[name].run(request.app.state.parts)


def run(listener: socket.socket, order: dict[str, Any]) -> None:
    """In a process of its own: serve, with what the order wants to go wrong."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    settings = installation.settings_from(order["environment"], database_pool_size=4)
    for bug in order["bugs"]:
        planted.BUGS[bug].plant()
    fault = Fault(**order["fault"]) if order["fault"] else None
    points = Points(
        fault, Path(order["told"]), settings.stripe_api_base or "", settings.database_url
    )
    points.install()
    server.create_app = lambda settings, *, sweeps: with_sweeps(APP, settings)  # type: ignore[assignment]
    # Stories say themselves who is told of what.
    server.register_webhooks = lambda _settings: None
    server.serve(settings, listener, sweeps=False)


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)  # noqa: T201 - whoever started us waits for it
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                run(listener, json.loads(line))
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)  # noqa: T201 - likewise


if __name__ == "__main__":
    asyncio.set_event_loop(None)
    main()
