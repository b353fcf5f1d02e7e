"""Who may ask: any test key, speaking the one API version the sandbox knows."""

import base64
import binascii

from starlette.datastructures import Headers
from starlette.requests import Request

from marketplace.stripe_sandbox.errors import StripeError
from marketplace.stripe_sandbox.events import API_VERSION


def admit(headers: Headers) -> None:
    key = _api_key(headers.get("authorization", ""))
    if not key:
        raise StripeError(
            "You did not provide an API key. You need to provide your API key in the "
            "Authorization header, using Bearer auth.",
            status=401,
        )
    if not key.startswith("sk_test_"):
        raise StripeError(f"Invalid API Key provided: {key[:8]}****", status=401)
    version = headers.get("stripe-version", API_VERSION)
    if version != API_VERSION:
        raise StripeError(
            f"Invalid Stripe API version: {version}. The Stripe sandbox speaks {API_VERSION}."
        )


async def encoded_parameters(request: Request) -> str:
    if request.method != "POST":
        return request.url.query
    return (await request.body()).decode("latin-1")


def _api_key(authorization: str) -> str:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
