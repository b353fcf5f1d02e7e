"""What goes to Stripe, guarded where the SDK would take nonsense without a word, and by which
HTTP client it goes.
"""

from datetime import datetime
from typing import Any

import httpx

IDEMPOTENCY_KEY_LENGTH_MAX = 255


def base_addresses(api_base: str | None) -> Any:
    if api_base is None:
        return {}
    return dict.fromkeys(("api", "connect", "files", "meter_events"), api_base.rstrip("/"))


def keyed(idempotency_key: str) -> Any:
    """The SDK would put a random key in the place of an empty one: a silent double payment."""
    if not 0 < len(idempotency_key) <= IDEMPOTENCY_KEY_LENGTH_MAX:
        raise ValueError("an idempotency key of 1 to 255 characters is required")
    return {"idempotency_key": idempotency_key}


def on(account_id: str | None) -> Any:
    """The SDK would take an empty account for the platform itself."""
    return {} if account_id is None else {"stripe_account": named(account_id)}


def named(id_: str) -> str:
    if not id_:
        raise ValueError("an empty id names nothing at Stripe")
    return id_


def positive(amount_minor: int) -> int:
    """The SDK sends floats and decimals as they are, without a word."""
    if type(amount_minor) is not int or amount_minor < 1:
        raise ValueError(f"not a positive amount in minor units: {amount_minor!r}")
    return amount_minor


def created(from_: datetime | None, before: datetime | None) -> dict[str, Any]:
    bounds = {
        name: int(moment.timestamp())
        for name, moment in (("gte", from_), ("lt", before))
        if moment is not None
    }
    return {"created": bounds} if bounds else {}


class HttpClient(httpx.AsyncClient):
    """What the SDK's client for `httpx` needs of it: two things set right.

    It would follow proxies named in the environment, and it hands over its encoded body in a way
    that `httpx` has deprecated.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(trust_env=False, **options)

    async def request(self, method: str, url: Any, *, data: Any = None, **rest: Any) -> Any:
        return await super().request(method, url, content=data or None, **rest)
