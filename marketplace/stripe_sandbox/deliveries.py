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
from enum import StrEnum
from functools import cache

import httpx

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.calls import Call
from marketplace.stripe_sandbox.faults import (
    Fault,
    WebhookFaultKind,
    early_is_planned,
    take_webhook_fault,
)
from marketplace.stripe_sandbox.later import happen
from marketplace.stripe_sandbox.views import as_of_now

TRY_TIMEOUT_SECONDS = 10
FIRST_RETRY_SECONDS = 0.2
RETRY_SECONDS_MAX = 30
TRIES_AT_ONCE = 16
IDLE_SECONDS = 0.5
EARLY_LOOK_SECONDS = 0.01
EARLY_LOOKS = 1000
STALE_SECONDS = 3600


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
            # Not by wait_for(), which before Python 3.12 forgets that it was cancelled when it is
            # woken in the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_idle_seconds(db, running)):
                    await woken.wait()


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def signature(payload: str, *, secret: str, timestamp: int) -> str:
    """Scheme v1 of https://docs.stripe.com/webhooks#verify-manually."""
    signed = hmac.new(secret.encode(), f"{timestamp}.{payload}".encode(), hashlib.sha256)
    return f"t={timestamp},v1={signed.hexdigest()}"


async def wait_for_early_webhooks(db: sqlite3.Connection, request_id: str) -> None:
    """Where that is planned, the events of a request are delivered before it is answered."""
    if not early_is_planned(db):
        return
    events = db.execute(
        "SELECT id, json_extract(body, '$.type') AS type FROM object "
        "WHERE kind = 'event' AND json_extract(body, '$.request.id') = ? ORDER BY sequence",
        (request_id,),
    ).fetchall()
    for event in events:
        if take_webhook_fault(db, event_id=event["id"], event_type=event["type"], early=True):
            for _ in range(EARLY_LOOKS):
                if not _is_owed(db, event["id"]):
                    break
                await asyncio.sleep(EARLY_LOOK_SECONDS)


def _is_owed(db: sqlite3.Connection, event_id: str) -> bool:
    found = db.execute(
        "SELECT 1 FROM delivery WHERE event_id = ? AND delivered_at IS NULL", (event_id,)
    ).fetchone()
    return found is not None


def _due(db: sqlite3.Connection, running: set[tuple[str, str]]) -> list[sqlite3.Row]:
    rows = db.execute(
        "SELECT event_id, json_extract(body, '$.type') AS type, endpoint_id, tries, url, secret "
        "FROM delivery JOIN endpoint ON endpoint.id = endpoint_id "
        "JOIN object ON object.id = event_id "
        "WHERE delivered_at IS NULL AND held = 0 AND due_at <= ? ORDER BY due_at LIMIT ?",
        (time.time(), 2 * TRIES_AT_ONCE),
    ).fetchall()
    waiting = [row for row in rows if (row["event_id"], row["endpoint_id"]) not in running]
    return waiting[: max(0, TRIES_AT_ONCE - len(running))]


def _idle_seconds(db: sqlite3.Connection, running: set[tuple[str, str]]) -> float:
    """Until the next retry is due, but no longer than a moment."""
    due_at: float | None
    (due_at,) = db.execute(
        "SELECT min(due_at) FROM delivery WHERE delivered_at IS NULL AND held = 0"
    ).fetchone()
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
        fault = take_webhook_fault(db, event_id=row["event_id"], event_type=row["type"])
        await _try(db, client, row, fault)
    finally:
        running.discard((row["event_id"], row["endpoint_id"]))
        woken.set()


async def _try(
    db: sqlite3.Connection, client: httpx.AsyncClient, row: sqlite3.Row, fault: Fault | None
) -> None:
    kind = fault.kind if fault else None
    match kind:
        case WebhookFaultKind.LOST:
            _note(db, row, "lost", delivered=True)
        case WebhookFaultKind.DELAYED if fault:
            _put_off(db, row, due_at=time.time() + fault.seconds)
        case WebhookFaultKind.REORDERED:
            _put_off(db, row, due_at=time.time(), held=True)
        case _:
            for _ in range(2 if kind == WebhookFaultKind.DUPLICATED else 1):
                answer = await _post(db, client, row, kind)
                taken = answer.startswith("2") and answer.isdigit()
                _note(db, row, answer, delivered=taken)


async def _post(
    db: sqlite3.Connection, client: httpx.AsyncClient, row: sqlite3.Row, kind: StrEnum | None
) -> str:
    """What the endpoint answered: a status, or the name of the network error."""
    event = state.find(db, "event", row["event_id"])
    assert event is not None
    now = state.virtual_now(db)
    payload = json.dumps(as_of_now(Call(db=db, now=now, base_url=""), event), indent=2)
    secret = "whsec_of_somebody_else" if kind == WebhookFaultKind.BADLY_SIGNED else row["secret"]
    signed_at = now - STALE_SECONDS if kind == WebhookFaultKind.STALE else now
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature(payload, secret=secret, timestamp=signed_at),
        "User-Agent": "Stripe/1.0 (marketplace sandbox)",
    }
    try:
        response = await client.post(row["url"], content=payload.encode(), headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return type(error).__name__
    return str(response.status_code)


def _put_off(
    db: sqlite3.Connection, row: sqlite3.Row, *, due_at: float, held: bool = False
) -> None:
    with state.transaction(db):
        db.execute(
            "UPDATE delivery SET due_at = ?, held = ? WHERE event_id = ? AND endpoint_id = ?",
            (due_at, int(held), row["event_id"], row["endpoint_id"]),
        )


def _note(db: sqlite3.Connection, row: sqlite3.Row, answer: str, *, delivered: bool) -> None:
    """What is held for the endpoint may follow this one."""
    retry_seconds = min(RETRY_SECONDS_MAX, FIRST_RETRY_SECONDS * 2 ** min(row["tries"], 16))
    with state.transaction(db):
        db.execute(
            "UPDATE delivery SET tries = tries + 1, answers = ltrim(answers || ' ' || ?), "
            "due_at = ?, delivered_at = coalesce(delivered_at, ?) "
            "WHERE event_id = ? AND endpoint_id = ?",
            (
                answer,
                time.time() + retry_seconds,
                time.time() if delivered else None,
                row["event_id"],
                row["endpoint_id"],
            ),
        )
        if delivered:
            db.execute(
                "UPDATE delivery SET held = 0 WHERE endpoint_id = ? AND held = 1",
                (row["endpoint_id"],),
            )
