"""Stripe's memory of keys (https://docs.stripe.com/api/idempotent_requests).

An answer is kept once an operation began to run, refusals and server errors included; a request
that failed validation leaves nothing. Keys are forgotten after 24 hours of the virtual clock.
"""

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from marketplace.stripe_sandbox.errors import StripeError
from marketplace.stripe_sandbox.forms import parse_pairs

KEPT_SECONDS = 24 * 3600
KEY_LENGTH_MAX = 255


@dataclass(frozen=True, kw_only=True)
class Saved:
    status: int
    body: dict[str, Any]
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A key as one request lays hold of it."""

    account: str
    key: str
    fingerprint: str


def fingerprint(path: str, encoded: str) -> str:
    """Two requests are the same when path and parameters are, in whatever order."""
    pairs = sorted(parse_pairs(encoded))
    return hashlib.sha256(json.dumps([path, pairs]).encode()).hexdigest()


def recall(db: sqlite3.Connection, claim: Claim, *, now: int) -> Saved | None:
    """The answer saved under this key; raises when it was given to another request."""
    db.execute("DELETE FROM idempotency WHERE created <= ?", (now - KEPT_SECONDS,))
    row = db.execute(
        "SELECT fingerprint, status, body, request_id FROM idempotency "
        "WHERE account = ? AND key = ?",
        (claim.account, claim.key),
    ).fetchone()
    if row is None:
        return None
    if row["fingerprint"] != claim.fingerprint:
        raise StripeError(
            "Keys for idempotent requests can only be used with the same parameters they were "
            f"first used with. Try using a key other than '{claim.key}' if you meant to execute a "
            "different request.",
            kind="idempotency_error",
        )
    return Saved(status=row["status"], body=json.loads(row["body"]), request_id=row["request_id"])


def remember(db: sqlite3.Connection, claim: Claim, saved: Saved, *, now: int) -> None:
    db.execute(
        "INSERT INTO idempotency (account, key, fingerprint, created, request_id, status, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            claim.account,
            claim.key,
            claim.fingerprint,
            now,
            saved.request_id,
            saved.status,
            json.dumps(saved.body),
        ),
    )


def key_in_use(key: str) -> StripeError:
    return StripeError(
        "There is currently another in-progress request using this Idempotency Key "
        f"({key}). Please try again later.",
        status=409,
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )


def check_length(key: str) -> None:
    if len(key) > KEY_LENGTH_MAX:
        raise StripeError(f"Idempotency keys can be at most {KEY_LENGTH_MAX} characters.")
