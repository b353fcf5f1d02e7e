"""Who receives webhooks: each endpoint has its own secret, and hears of the platform's events or
of the connected accounts', as Stripe keeps the two apart.
"""

import sqlite3
from typing import Any

from marketplace.stripe_sandbox import state


def register_endpoint(db: sqlite3.Connection, *, url: str, secret: str, connect: bool) -> str:
    """Idempotent per url and kind; the newest secret counts. Earlier events are not sent."""
    (id_,) = db.execute(
        "INSERT INTO endpoint (id, url, secret, connect) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (url, connect) DO UPDATE SET secret = excluded.secret RETURNING id",
        (state.new_id("we"), url, secret, int(connect)),
    ).fetchone()
    return str(id_)


def remove_endpoint(db: sqlite3.Connection, id_: str) -> bool:
    return db.execute("DELETE FROM endpoint WHERE id = ?", (id_,)).rowcount == 1


def list_endpoints(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Without the secrets, with what is still owed to each."""
    rows = db.execute(
        "SELECT id, url, connect, (SELECT count(*) FROM delivery "
        "WHERE endpoint_id = endpoint.id AND delivered_at IS NULL) AS owed "
        "FROM endpoint ORDER BY url"
    )
    return [{**dict(row), "connect": bool(row["connect"])} for row in rows]


def list_deliveries(db: sqlite3.Connection) -> list[dict[str, Any]]:
    rows = db.execute(
        "SELECT event_id, json_extract(body, '$.type') AS type, endpoint.url, tries, answers, "
        "delivered_at IS NOT NULL AS delivered FROM delivery "
        "JOIN object ON object.id = event_id JOIN endpoint ON endpoint.id = endpoint_id "
        "ORDER BY sequence"
    )
    return [
        {**dict(row), "answers": row["answers"].split(), "delivered": bool(row["delivered"])}
        for row in rows
    ]
