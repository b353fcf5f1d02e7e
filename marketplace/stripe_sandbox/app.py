"""Composes the sandbox's three faces: Stripe's API, the hosted pages, the control API."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI

from marketplace.stripe_sandbox import control, control_payments, hosted
from marketplace.stripe_sandbox.api import Sandbox, serve
from marketplace.stripe_sandbox.deliveries import deliver_forever

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_app(
    db: sqlite3.Connection, *, abort: Callable[[Any], None], ready: Callable[[], None]
) -> FastAPI:
    """`abort` cuts the connection of one client address; `ready` is called once all is up."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sandbox = Sandbox(db=db, abort=abort)
        app.state.sandbox = sandbox
        deliverer = asyncio.create_task(deliver_forever(db, sandbox.events_written))
        ready()
        yield
        deliverer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await deliverer
        db.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.include_router(control.router)
    app.include_router(control_payments.router)
    app.include_router(hosted.router)
    app.add_route("/v1/{path:path}", serve, methods=METHODS)
    app.add_route("/v2/{path:path}", serve, methods=METHODS)
    return app
