"""Two real HTTP servers on loopback sockets in one background thread: the product and the sandbox.

Each serves whatever application stands in it at the moment, so that a new one per story costs
milliseconds.
"""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import httpx
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

Answer = TypeVar("Answer")

LONGEST_SECONDS = 120


class Place:
    """A server whose application can be changed."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.listener = listener
        self.url = "http://{}:{}".format(*listener.getsockname())
        self.server = uvicorn.Server(
            uvicorn.Config(
                self.answer,
                interface="asgi3",
                lifespan="off",
                log_level="warning",
                access_log=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )
        )

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)

    async def serve(self) -> None:
        await self.server.serve(sockets=[self.listener])

    def abort(self, client: Any) -> None:
        """Cut the connection of one client address."""
        for connection in list(self.server.server_state.connections):
            if getattr(connection, "client", None) == tuple(client):
                connection.transport.abort()


class Loopback:
    def __init__(self) -> None:
        self.product = Place()
        self.stripe = Place()
        self.http = httpx.Client(trust_env=False, timeout=LONGEST_SECONDS)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="loopback")
        self._ended: Future[None] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ended = asyncio.run_coroutine_threadsafe(self._serve(), self.loop)
        return self

    def __exit__(self, *_: object) -> None:
        for place in (self.product, self.stripe):
            place.server.should_exit = True
        assert self._ended is not None
        self.http.close()
        self._ended.result(LONGEST_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The coroutine's result, awaited in the servers' own thread and loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LONGEST_SECONDS)

    def start(self, work: Coroutine[Any, Any, Answer]) -> Future[Answer]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _serve(self) -> None:
        # Signals are pytest's business; uvicorn would take them only in the main thread anyway.
        await asyncio.gather(self.product.serve(), self.stripe.serve())
