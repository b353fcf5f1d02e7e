"""What an operation is given, and what several operations need of it."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.errors import resource_missing
from marketplace.stripe_sandbox.forms import Fields, Integer, Many, Text, TimeFilter


@dataclass(frozen=True, kw_only=True)
class Call:
    """One accepted request, inside its transaction. `account` is '' for the platform itself."""

    db: sqlite3.Connection
    now: int
    base_url: str
    account: str = state.PLATFORM
    path_id: str = ""
    path_part: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Operation:
    """`path` holds at most one `{id}` and one `{part}` of it; `connect` allows the Stripe-Account
    header.
    """

    method: str
    path: str
    takes: Fields
    run: Callable[[Call], dict[str, Any]]
    connect: bool = False


EXPAND = Many(Text(length_max=200), count_max=20)
RETRIEVE = Fields({"expand": EXPAND})


def listing_of(**filters: Any) -> Fields:
    return Fields(
        {
            "limit": Integer(at_least=1, at_most=100),
            "starting_after": Text(),
            "ending_before": Text(),
            "created": TimeFilter(),
            "expand": EXPAND,
            **filters,
        }
    )


def in_path(call: Call, kind: str) -> dict[str, Any]:
    """The object the path names, as this account may see it; else Stripe's 404."""
    body = state.find(call.db, kind, call.path_id, account=call.account)
    if body is None:
        raise resource_missing(kind, call.path_id, param="id")
    return body
