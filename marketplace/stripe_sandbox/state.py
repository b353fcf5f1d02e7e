"""The sandbox's memory: one SQLite file, one transaction per request, nothing kept elsewhere.

Stripe does not forget an answered request when a machine dies, so neither does this: the file is
written ahead (WAL) and synced before an answer leaves.
"""

import json
import secrets
import sqlite3
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS object (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    account TEXT NOT NULL,  -- '' is the platform
    created INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS object_listing ON object (kind, account, sequence);
CREATE INDEX IF NOT EXISTS object_by_transfer_group
    ON object (kind, account, json_extract(body, '$.transfer_group'), sequence);
CREATE TABLE IF NOT EXISTS balance_line (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    currency TEXT NOT NULL,
    net_minor INTEGER NOT NULL,
    available_on INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS balance_line_sum
    ON balance_line (account, currency, available_on, net_minor);
CREATE TABLE IF NOT EXISTS later (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    due_at INTEGER NOT NULL,  -- virtual seconds
    what TEXT NOT NULL,
    subject TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS later_due ON later (due_at, id);
CREATE TABLE IF NOT EXISTS idempotency (
    account TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created INTEGER NOT NULL,  -- virtual seconds
    request_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (account, key)
) STRICT;
CREATE TABLE IF NOT EXISTS endpoint (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    connect INTEGER NOT NULL,  -- 1: events of connected accounts, 0: the platform's own
    UNIQUE (url, connect)
) STRICT;
CREATE TABLE IF NOT EXISTS delivery (
    event_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL REFERENCES endpoint ON DELETE CASCADE,
    tries INTEGER NOT NULL DEFAULT 0,
    due_at REAL NOT NULL,  -- real seconds: deliveries do not wait for the virtual clock
    delivered_at REAL,
    held INTEGER NOT NULL DEFAULT 0,  -- 1: waits until its endpoint has got another one
    answers TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (event_id, endpoint_id)
) STRICT;
CREATE INDEX IF NOT EXISTS delivery_due ON delivery (due_at) WHERE delivered_at IS NULL;
CREATE TABLE IF NOT EXISTS fault (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    nth INTEGER NOT NULL,
    kind TEXT NOT NULL,
    seconds REAL NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0,
    fired_at INTEGER,
    fired_on TEXT
) STRICT;
"""

DEFAULT_SETTINGS = {
    "offset_seconds": 0,
    "automatic_payout_after_seconds": 0,
    "available_after_seconds": 2 * 24 * 3600,
    "bank_debit_after_seconds": 4 * 24 * 3600,
    "fee_after_seconds": 0,
    "euros_percent": 0,
    "latency_ms": 0,
    "payout_after_seconds": 2 * 24 * 3600,
    "refund_after_seconds": 0,
    "refund_fee": 0,
    "refunds_fail": 0,
    "topup_after_seconds": 0,
    "topups_fail": 0,
}

PLATFORM = ""


def open_state(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.executescript(SCHEMA)
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; on leaving without an error the effect is on the disk."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextmanager
def savepoint(db: sqlite3.Connection) -> Iterator[None]:
    """Takes back a refused effect without losing the record of the refusal."""
    db.execute("SAVEPOINT effect")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK TO effect")
        db.execute("RELEASE effect")
        raise
    db.execute("RELEASE effect")


def setting(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
    return DEFAULT_SETTINGS[name] if row is None else int(row["value"])


def set_setting(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", (name, value))


def virtual_now(db: sqlite3.Connection) -> int:
    """Unix seconds on the sandbox's clock: system time plus the offset pushed by the product."""
    return int(time.time()) + setting(db, "offset_seconds")


def plan(db: sqlite3.Connection, what: str, subject: str, *, due_at: int) -> None:
    """What happens to `subject` by itself, when the virtual clock comes to it: see `later`."""
    db.execute(
        "INSERT INTO later (due_at, what, subject) VALUES (?, ?, ?)", (due_at, what, subject)
    )


def new_id(prefix: str) -> str:
    alphabet = string.ascii_letters + string.digits
    return f"{prefix}_{''.join(secrets.choice(alphabet) for _ in range(24))}"


def insert(db: sqlite3.Connection, body: dict[str, Any], *, account: str) -> None:
    db.execute(
        "INSERT INTO object (id, kind, account, created, body) VALUES (?, ?, ?, ?, ?)",
        (body["id"], body["object"], account, body["created"], json.dumps(body)),
    )


def update(db: sqlite3.Connection, body: dict[str, Any]) -> None:
    db.execute("UPDATE object SET body = ? WHERE id = ?", (json.dumps(body), body["id"]))


def find(
    db: sqlite3.Connection, kind: str, id_: str, *, account: str | None = None
) -> dict[str, Any] | None:
    """The object as last written; `account=None` looks into every account."""
    row = db.execute(
        "SELECT body FROM object WHERE id = ? AND kind = ? AND (? IS NULL OR account = ?)",
        (id_, kind, account, account),
    ).fetchone()
    return None if row is None else json.loads(row["body"])


def account_of(db: sqlite3.Connection, id_: str) -> str:
    """Whose the object is; '' is the platform."""
    (account,) = db.execute("SELECT account FROM object WHERE id = ?", (id_,)).fetchone()
    return str(account)
