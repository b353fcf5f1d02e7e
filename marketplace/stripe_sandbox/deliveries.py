"""Webhooks out: every stored event reaches every endpoint registered for it, at least once.

Deliveries run side by side, so their order means nothing, as with Stripe. What is owed stands in
the file; a killed sandbox goes on where it stopped, and may repeat what it had just sent.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import sqlite3
import ssl
import time
from functools import cache

import httpx

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.calls import Call
from marketplace.stripe_sandbox.later import happen
from marketplace.stripe_sandbox.views import as_of_now

TRY_TIMEOUT_SECONDS = 10
FIRST_RETRY_SECONDS = 0.2
RETRY_SECONDS_MAX = 30
TRIES_AT_ONCE = 16
IDLE_SECONDS = 0.5


async def deliver_forever(db: sqlite3.Connection, woken: asyncio.Event) -> None:
    """`woken` is set when events were written, and by every delivery that makes room."""
    running: set[tuple[str, str]] = set()
    async with (
        httpx.AsyncClient(
            trust_env=False, timeout=TRY_TIMEOUT_SECONDS, verify=_certificates()
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        while True:
            woken.clear()
            happen(db)
            for row in _due(db, running):
                running.add((row["event_id"], row["endpoint_id"]))
                group.create_task(_deliver(db, client, row, running, woken))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), timeout=_idle_seconds(db, running))


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def signature(payload: str, *, secret: str, timestamp: int) -> str:
    """Scheme v1 of https://docs.stripe.com/webhooks#verify-manually."""
    signed = hmac.new(secret.encode(), f"{timestamp}.{payload}".encode(), hashlib.sha256)
    return f"t={timestamp},v1={signed.hexdigest()}"


def _due(db: sqlite3.Connection, running: set[tuple[str, str]]) -> list[sqlite3.Row]:
    rows = db.execute(
        "SELECT event_id, endpoint_id, tries, url, secret FROM delivery "
        "JOIN endpoint ON endpoint.id = endpoint_id "
        "WHERE delivered_at IS NULL AND due_at <= ? ORDER BY due_at LIMIT ?",
        (time.time(), 2 * TRIES_AT_ONCE),
    ).fetchall()
    waiting = [row for row in rows if (row["event_id"], row["endpoint_id"]) not in running]
    return waiting[: max(0, TRIES_AT_ONCE - len(running))]


def _idle_seconds(db: sqlite3.Connection, running: set[tuple[str, str]]) -> float:
    """Until the next retry is due, but no longer than a moment."""
    due_at: float | None
    (due_at,) = db.execute("SELECT min(due_at) FROM delivery WHERE delivered_at IS NULL").fetchone()
    if due_at is None or running:
        return IDLE_SECONDS
    return min(IDLE_SECONDS, max(0.01, due_at - time.time()))


async def _deliver(
    db: sqlite3.Connection,
    client: httpx.AsyncClient,
    row: sqlite3.Row,
    running: set[tuple[str, str]],
    woken: asyncio.Event,
) -> None:
    try:
        answer = await _post(db, client, row)
        _note(db, row, answer)
    finally:
        running.discard((row["event_id"], row["endpoint_id"]))
        woken.set()


async def _post(db: sqlite3.Connection, client: httpx.AsyncClient, row: sqlite3.Row) -> str:
    """What the endpoint answered: a status, or the name of the network error."""
    event = state.find(db, "event", row["event_id"])
    assert event is not None
    now = state.virtual_now(db)
    payload = json.dumps(as_of_now(Call(db=db, now=now, base_url=""), event), indent=2)
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature(payload, secret=row["secret"], timestamp=now),
        "User-Agent": "Stripe/1.0 (marketplace sandbox)",
    }
    try:
        response = await client.post(row["url"], content=payload.encode(), headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return type(error).__name__
    return str(response.status_code)


def _note(db: sqlite3.Connection, row: sqlite3.Row, answer: str) -> None:
    retry_seconds = min(RETRY_SECONDS_MAX, FIRST_RETRY_SECONDS * 2 ** min(row["tries"], 16))
    delivered = answer.startswith("2") and answer.isdigit()
    with state.transaction(db):
        db.execute(
            "UPDATE delivery SET tries = tries + 1, last_answer = ?, due_at = ?, delivered_at = ? "
            "WHERE event_id = ? AND endpoint_id = ?",
            (
                answer,
                time.time() + retry_seconds,
                time.time() if delivered else None,
                row["event_id"],
                row["endpoint_id"],
            ),
        )
