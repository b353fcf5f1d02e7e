"""Stored objects as Stripe answers them: clock-dependent fields, expansion, list pages."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from marketplace.stripe_sandbox import state
from marketplace.stripe_sandbox.calls import Call
from marketplace.stripe_sandbox.errors import StripeError, resource_missing

EXPAND_DEPTH_MAX = 4
PAGE_DEFAULT = 10

EXPANDABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "checkout.session": {"payment_intent": ("payment_intent",)},
    "payment_intent": {"latest_charge": ("charge",)},
    "charge": {
        "balance_transaction": ("balance_transaction",),
        "payment_intent": ("payment_intent",),
        "source_transfer": ("transfer",),
    },
    "dispute": {"charge": ("charge",), "payment_intent": ("payment_intent",)},
    "payout": {
        "balance_transaction": ("balance_transaction",),
        "failure_balance_transaction": ("balance_transaction",),
    },
    "refund": {
        "balance_transaction": ("balance_transaction",),
        "charge": ("charge",),
        "failure_balance_transaction": ("balance_transaction",),
        "payment_intent": ("payment_intent",),
    },
    "topup": {"balance_transaction": ("balance_transaction",)},
    "transfer": {
        "balance_transaction": ("balance_transaction",),
        "destination": ("account",),
        "destination_payment": ("charge",),
    },
    "transfer_reversal": {
        "balance_transaction": ("balance_transaction",),
        "transfer": ("transfer",),
    },
    "balance_transaction": {
        "source": (
            *("charge", "dispute", "payout", "refund", "topup", "transfer", "transfer_reversal"),
        )
    },
}

TIME_BOUNDS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def answer(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    """The stored object as of now, with everything `expand[]` asked for."""
    shown = as_of_now(call, body)
    for path in call.parameters.get("expand", []):
        _expand(call, shown, path.split("."), path)
    return shown


def page(
    call: Call, kind: str, *, url: str, filters: dict[str, Any] | None = None, since: int = 0
) -> dict[str, Any]:
    """Newest first; `filters` compare top-level fields of the stored objects."""
    limit = call.parameters.get("limit", PAGE_DEFAULT)
    rows = _rows(call, kind, filters or {}, since=since, limit=limit + 1)
    data = [as_of_now(call, json.loads(row["body"])) for row in rows[:limit]]
    if "ending_before" in call.parameters:
        data.reverse()
    shown = {"object": "list", "data": data, "has_more": len(rows) > limit, "url": url}
    for path in call.parameters.get("expand", []):
        _expand(call, shown, path.split("."), path)
    return shown


def as_of_now(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    """A copy with the fields that change by time alone."""
    adjust = BY_TIME.get(body["object"])
    return {**body, **adjust(call, body)} if adjust else dict(body)


def _balance_transaction_by_time(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    return {"status": "available" if body["available_on"] <= call.now else "pending"}


def _event_by_time(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    (pending,) = call.db.execute(
        "SELECT count(*) FROM delivery WHERE event_id = ? AND delivered_at IS NULL", (body["id"],)
    ).fetchone()
    return {"pending_webhooks": pending}


BY_TIME: dict[str, Callable[[Call, dict[str, Any]], dict[str, Any]]] = {
    "balance_transaction": _balance_transaction_by_time,
    "event": _event_by_time,
}


def _expand(call: Call, target: dict[str, Any], steps: list[str], path: str) -> None:
    if len(steps) > EXPAND_DEPTH_MAX:
        raise StripeError(
            f"You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property. "
            f"Property: {path}",
            param="expand",
        )
    step, rest = steps[0], steps[1:]
    if target["object"] == "list" and step == "data" and rest:
        for item in target["data"]:
            _expand(call, item, rest, path)
        return
    kinds = EXPANDABLE.get(target["object"], {}).get(step)
    if kinds is None:
        raise StripeError(f"This property cannot be expanded ({path}).", param="expand")
    if isinstance(target.get(step), str):
        target[step] = _any_of(call, kinds, target[step])
    if rest and target.get(step) is not None:
        _expand(call, target[step], rest, path)


def _any_of(call: Call, kinds: tuple[str, ...], id_: str) -> dict[str, Any] | str:
    for kind in kinds:
        body = state.find(call.db, kind, id_)
        if body is not None:
            return as_of_now(call, body)
    return id_


def _rows(
    call: Call, kind: str, filters: dict[str, Any], *, since: int, limit: int
) -> list[sqlite3.Row]:
    clauses = ["kind = ?", "account = ?", "created >= ?"]
    values: list[str | int] = [kind, call.account, since]
    for name, wanted in filters.items():
        wanted_values = wanted if isinstance(wanted, list) else [wanted]
        marks = ", ".join("?" for _ in wanted_values)
        clauses.append(f"json_extract(body, '$.{name}') IN ({marks})")
        values += wanted_values
    for clause, value in _time_clauses(call.parameters.get("created")):
        clauses.append(clause)
        values.append(value)
    clause, cursor_values, order = _cursor(call, kind)
    statement = (
        f"SELECT body FROM object WHERE {' AND '.join([*clauses, clause])} "  # noqa: S608  # names are ours, values are bound
        f"ORDER BY sequence {order} LIMIT ?"
    )
    return call.db.execute(statement, [*values, *cursor_values, limit]).fetchall()


def _time_clauses(created: int | dict[str, int] | None) -> list[tuple[str, int]]:
    if created is None:
        return []
    if isinstance(created, int):
        return [("created = ?", created)]
    return [(f"created {TIME_BOUNDS[bound]} ?", value) for bound, value in created.items()]


def _cursor(call: Call, kind: str) -> tuple[str, list[int], str]:
    after, before = (call.parameters.get(name) for name in ("starting_after", "ending_before"))
    if after is not None and before is not None:
        raise StripeError("You can't specify both `starting_after` and `ending_before`.")
    if after is not None:
        return "sequence < ?", [_sequence(call, kind, after, "starting_after")], "DESC"
    if before is not None:
        return "sequence > ?", [_sequence(call, kind, before, "ending_before")], "ASC"
    return "TRUE", [], "DESC"


def _sequence(call: Call, kind: str, id_: str, param: str) -> int:
    row = call.db.execute(
        "SELECT sequence FROM object WHERE id = ? AND kind = ? AND account = ?",
        (id_, kind, call.account),
    ).fetchone()
    if row is None:
        raise resource_missing(kind, id_, param=param, status=400)
    return int(row["sequence"])
