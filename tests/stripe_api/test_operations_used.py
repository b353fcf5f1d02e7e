"""Whatever the product may ask of Stripe, the sandbox has: each method of the gateway is run.

A method that is new is run, too, with arguments made from its own signature.
"""

import inspect
import re
import types
import typing
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from marketplace.stripe_api.gateway import StripeGateway
from marketplace.stripe_api.gateway_errors import StripeOutcomeUnknown
from marketplace.stripe_api.gateway_requests import HttpClient
from marketplace.stripe_sandbox.api import OPERATIONS
from marketplace.stripe_sandbox.calls import Operation
from marketplace.stripe_sandbox.forms import read_parameters

pytestmark = pytest.mark.anyio

EXAMPLES: dict[Any, Any] = {
    str: "usd",
    int: 5,
    datetime: datetime(2026, 11, 26, tzinfo=UTC),
    dict[str, str]: {"a": "b"},
    list[str]: ["topup.created"],
}
# Named by shape, not by type.
NAMED = {"success_url", "cancel_url", "return_url", "refresh_url"}
COUNTRY = {"country": "US", "email": "ana@example.test"}


def methods() -> Iterator[str]:
    for name, method in inspect.getmembers(StripeGateway, inspect.isfunction):
        if not name.startswith("_") and name != "aclose":
            assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method), name
            yield name


def argument(name: str, hint: Any) -> Any:
    if name in NAMED:
        return "https://app.example/there"
    if name in COUNTRY:
        return COUNTRY[name]
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    return EXAMPLES[hint]


def arguments(name: str, *, all_of_them: bool) -> dict[str, Any]:
    method = getattr(StripeGateway, name)
    hints = typing.get_type_hints(method)
    return {
        each.name: argument(each.name, hints[each.name])
        for each in inspect.signature(method).parameters.values()
        if each.name != "self" and (all_of_them or each.default is each.empty)
    }


async def asked(
    monkeypatch: pytest.MonkeyPatch, name: str, *, all_of_them: bool
) -> list[tuple[str, str, str, bool]]:
    """What the method asks first: its HTTP method, path, form or query, and on whose behalf."""
    heard: list[tuple[str, str, str, bool]] = []

    async def hear(_client: HttpClient, method: str, url: Any, **sent: Any) -> httpx.Response:
        to = httpx.URL(url)
        encoded = sent.get("data") or to.query.decode()
        connected = "Stripe-Account" in (sent.get("headers") or {})
        heard.append((method.upper(), to.path, encoded, connected))
        raise httpx.ConnectError("nobody is there")

    monkeypatch.setattr(HttpClient, "request", hear)
    async with StripeGateway(api_key="sk_test_x", api_base="http://127.0.0.1:9") as gateway:
        answer = getattr(gateway, name)(**arguments(name, all_of_them=all_of_them))
        first = anext(answer) if inspect.isasyncgen(answer) else answer
        with pytest.raises(StripeOutcomeUnknown):
            await first
    return heard


def operation_of(method: str, path: str) -> Operation | None:
    for operation in OPERATIONS:
        pattern = re.escape(operation.path).replace(r"\{id\}", "[^/]+")
        if operation.method == method and re.fullmatch(pattern, path):
            return operation
    return None


@pytest.mark.parametrize("all_of_them", [False, True])
@pytest.mark.parametrize("name", list(methods()))
async def test_the_sandbox_has_what_the_gateway_asks_for(
    monkeypatch: pytest.MonkeyPatch, name: str, all_of_them: bool
) -> None:
    heard = await asked(monkeypatch, name, all_of_them=all_of_them)
    assert heard, name
    for method, path, encoded, connected in heard:
        operation = operation_of(method, path)
        assert operation is not None, f"{name} asks for {method} {path}, which the sandbox lacks"
        # Refuses what the operation does not take.
        read_parameters(encoded, operation.takes)
        assert operation.connect or not connected, f"{method} {path} of a connected account"


async def test_every_call_of_the_sdk_is_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(map(inspect.getsource, StripeGateway.__mro__[:-1]))
    called = set(re.findall(r"self\._stripe\.v1\.([\w.]+)_async\b", source))
    reached = set()
    for name in methods():
        for method, path, _, _ in await asked(monkeypatch, name, all_of_them=False):
            operation = operation_of(method, path)
            assert operation is not None
            reached.add((operation.method, operation.path))
    assert len(reached) == len(called) > 0
