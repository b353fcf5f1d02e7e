"""The API's OpenAPI document as it is checked in."""

import json

from pydantic import SecretStr

from marketplace.app import create_app
from marketplace.shared.settings import Settings


def text() -> str:
    """The document as stable JSON. Builds the application without opening any connection."""
    settings = Settings(
        database_url="postgresql://nowhere",
        stripe_api_key=SecretStr("sk_test_description"),
        stripe_webhook_secret=SecretStr("unused"),
        stripe_connect_webhook_secret=SecretStr("unused"),
        storage_url="unused",
    )
    document = create_app(settings, sweeps=False).openapi()
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
