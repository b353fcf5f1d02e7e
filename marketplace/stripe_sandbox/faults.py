"""The fault plan: what goes wrong, on which request or webhook, and whether it has happened yet."""

import re
import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from marketplace.stripe_sandbox import state


class FaultKind(StrEnum):
    DROP_BEFORE = "drop_before"  # the connection closes, nothing was done
    APPLY_THEN_DROP = "apply_then_drop"  # done and kept, then the connection closes
    HANG = "hang"  # done and kept, and never answered
    SLOW = "slow"  # the key is in use for `seconds`, then all is well
    ERROR_500_AFTER_APPLY = "error_500_after_apply"  # done; the key replays the 500
    TOO_MANY_REQUESTS = "429"  # nothing was done; Retry-After is `seconds`
    CONFLICT = "409"  # nothing was done
    BALANCE_INSUFFICIENT = "balance_insufficient"  # refused, and saved under the key
    ACCOUNT_RESTRICTED = "account_restricted"  # the destination loses its capability just now


class WebhookFaultKind(StrEnum):
    BADLY_SIGNED = "badly_signed"  # with a secret that is not the endpoint's
    DELAYED = "delayed"  # sent `seconds` later
    DUPLICATED = "duplicated"  # sent twice
    EARLY = "early"  # delivered before the request that caused it is answered
    LOST = "lost"  # never sent
    REORDERED = "reordered"  # sent when its endpoint has got another one first
    STALE = "stale"  # signed an hour ago


# In the place of a request's method.
WEBHOOK = "WEBHOOK"


@dataclass(frozen=True, kw_only=True)
class PlannedFault:
    """Fires once: on the nth request whose path begins with the regular expression `path`, or on
    the nth try to deliver an event whose type it is.
    """

    method: str
    path: str
    nth: int
    kind: FaultKind | WebhookFaultKind
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: FaultKind | WebhookFaultKind
    seconds: float


def add_fault(db: sqlite3.Connection, planned: PlannedFault) -> int:
    cursor = db.execute(
        "INSERT INTO fault (method, path, nth, kind, seconds) VALUES (?, ?, ?, ?, ?)",
        (planned.method, planned.path, planned.nth, planned.kind, planned.seconds),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def take_fault(db: sqlite3.Connection, *, method: str, path: str, request_id: str) -> Fault | None:
    """Counts this request against every waiting fault; the first that is due fires."""
    waiting = [
        row
        for row in _waiting(db)
        if row["method"] in {"*", method} and re.match(row["path"], path)
    ]
    fired = _fire(db, waiting, request_id)
    return Fault(kind=FaultKind(fired["kind"]), seconds=fired["seconds"]) if fired else None


def take_webhook_fault(
    db: sqlite3.Connection, *, event_id: str, event_type: str, early: bool = False
) -> Fault | None:
    """The same of one try to deliver an event; those `early` are asked for before any try."""
    waiting = [
        row
        for row in _waiting(db)
        if row["method"] == WEBHOOK
        and re.fullmatch(row["path"], event_type)
        and (row["kind"] == WebhookFaultKind.EARLY) == early
    ]
    fired = _fire(db, waiting, event_id)
    return Fault(kind=WebhookFaultKind(fired["kind"]), seconds=fired["seconds"]) if fired else None


def early_is_planned(db: sqlite3.Connection) -> bool:
    return any(row["kind"] == WebhookFaultKind.EARLY for row in _waiting(db))


def _waiting(db: sqlite3.Connection) -> list[sqlite3.Row]:
    return db.execute("SELECT * FROM fault WHERE fired_at IS NULL ORDER BY id").fetchall()


def _fire(db: sqlite3.Connection, waiting: list[sqlite3.Row], fired_on: str) -> sqlite3.Row | None:
    if not waiting:
        return None
    with state.transaction(db):
        for row in waiting:
            db.execute("UPDATE fault SET seen = seen + 1 WHERE id = ?", (row["id"],))
        due = next((row for row in waiting if row["seen"] + 1 >= row["nth"]), None)
        if due is not None:
            db.execute(
                "UPDATE fault SET fired_at = ?, fired_on = ? WHERE id = ?",
                (state.virtual_now(db), fired_on, due["id"]),
            )
    return due


def list_faults(db: sqlite3.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in db.execute("SELECT * FROM fault ORDER BY id")]


def clear_faults(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM fault")
