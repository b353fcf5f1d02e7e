"""The fault plan: what goes wrong, on which request, and whether it has happened yet."""

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


@dataclass(frozen=True, kw_only=True)
class PlannedFault:
    """Fires once, on the nth request whose path begins with the regular expression `path`."""

    method: str
    path: str
    nth: int
    kind: FaultKind
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: FaultKind
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
        for row in db.execute("SELECT * FROM fault WHERE fired_at IS NULL ORDER BY id")
        if row["method"] in {"*", method} and re.match(row["path"], path)
    ]
    if not waiting:
        return None
    with state.transaction(db):
        for row in waiting:
            db.execute("UPDATE fault SET seen = seen + 1 WHERE id = ?", (row["id"],))
        due = next((row for row in waiting if row["seen"] + 1 >= row["nth"]), None)
        if due is None:
            return None
        db.execute(
            "UPDATE fault SET fired_at = ?, fired_on = ? WHERE id = ?",
            (state.virtual_now(db), request_id, due["id"]),
        )
    return Fault(kind=FaultKind(due["kind"]), seconds=due["seconds"])


def list_faults(db: sqlite3.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in db.execute("SELECT * FROM fault ORDER BY id")]


def clear_faults(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM fault")
