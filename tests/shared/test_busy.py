"""Slow clients and too many of them: nobody keeps the database's connections from the others."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI

from marketplace.app import LARGEST_BODY_BYTES
from marketplace.shared import database, problems
from marketplace.shared.requests import Session, TransactionalRoute
from tests.world import Person, World

SLOW = 13
IN_TRANSACTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'idle in transaction'
"""
router = APIRouter(route_class=TransactionalRoute)


@router.get("/patience")
async def lose_patience(session: Session) -> None:
    """Does nothing in a transaction for longer than the database bears."""
    await session.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
    await asyncio.sleep(0.3)
    await session.execute(sa.text("SELECT 1"))


def begin(world: World, caller: Person, *, sent: bytes = b"", length: int = 10) -> socket.socket:
    """A request whose body does not come, or not whole."""
    url = httpx.URL(world.url)
    connection = socket.create_connection((url.host, url.port or 0))
    head = (
        f"POST /v1/audition/heartbeat HTTP/1.1\r\nHost: {url.host}\r\nIdempotency-Key: slow\r\n"
        f"Authorization: Bearer {caller.token}\r\nContent-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + sent)
    return connection


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the server logs, which it keeps from the root logger."""
    logging.getLogger("uvicorn").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("uvicorn").removeHandler(caplog.handler)


def test_bodies_that_do_not_come_hold_no_connection(world: World, ana: Person) -> None:
    with ExitStack() as slow:
        for _ in range(SLOW):
            slow.enter_context(begin(world, ana))
        assert ana.get("/v1/me")["person_id"] == ana.id
        assert world.value(IN_TRANSACTIONS) == 0


def test_a_body_that_comes_late_is_answered(world: World, ana: Person) -> None:
    with begin(world, ana, length=2) as slow:
        slow.sendall(b"{}")
        assert slow.recv(1024).startswith(b"HTTP/1.1 404")


def test_a_body_too_large_is_413_before_anything(world: World, ana: Person) -> None:
    with begin(world, ana, length=LARGEST_BODY_BYTES + 1) as large:
        assert large.recv(1024).startswith(b"HTTP/1.1 413")


def test_a_request_that_is_broken_off_is_no_error(
    world: World, ana: Person, complaints: pytest.LogCaptureFixture
) -> None:
    begin(world, ana, sent=b"12345").close()
    for _ in range(3):
        ana.get("/v1/me")
    assert complaints.text == ""


def test_no_free_connection_is_503_and_so_is_a_transaction_that_took_too_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "POOL_WAIT_SECONDS", 0.1)

    async def ask() -> list[httpx.Response]:
        async with served(world, pool_size=1) as http:
            return list(await asyncio.gather(http.get("/patience"), http.get("/patience")))

    for answer in world.loopback.run(ask()):
        assert (answer.status_code, answer.json()["code"]) == (503, "try_again")
        assert answer.headers["retry-after"] == "1"


@asynccontextmanager
async def served(world: World, *, pool_size: int) -> AsyncIterator[httpx.AsyncClient]:
    """The impatient route, under the product's own rules of transactions and errors."""
    app = FastAPI(exception_handlers={problems.Problem: problems.answer_problem})
    app.include_router(router)
    engine = database.connect(world.app_url, pool_size)
    app.state.sessions = database.session_factory(engine)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://patience") as http:
        yield http
    await engine.dispose()
