"""Everything that may differ between two installations, from environment variables."""

import json
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HOUR = 3600
DAY = 24 * HOUR


def _web_address(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or not text.isascii():
        raise ValueError("must be an address such as https://api.example.org")
    return text


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


WebAddress = Annotated[str, AfterValidator(_web_address)]


class Settings(BaseSettings):
    """Read from the environment by these names in upper case (`DATABASE_URL` …)."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    # The application's login; it owns no table. The owner's, MIGRATION_DATABASE_URL, is no setting:
    # what starts with it in its environment migrates first, and then forgets it.
    database_url: str
    database_pool_size: Annotated[int, Field(ge=1, le=64)] = 12

    stripe_api_key: SecretStr
    # None is Stripe itself; the sandbox server has a loopback address.
    stripe_api_base: WebAddress | None = None
    stripe_webhook_secret: SecretStr
    stripe_connect_webhook_secret: SecretStr

    # Where browsers and clients reach this service; links are built from it.
    public_url: WebAddress = "http://127.0.0.1:8000"
    storage_url: str
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_json)] = ()
    docs_enabled: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # What Prometheus sends as its bearer token to /metrics, which is not there without one.
    metrics_token: SecretStr | None = None

    platform_fee_basis_points: Annotated[int, Field(ge=0, le=10_000)] = 1_500
    minimum_payout_minor: Annotated[int, Field(ge=1)] = 100
    # How long a payout account that took another one's place is not paid yet.
    destination_cooling_seconds: Annotated[int, Field(ge=0)] = 72 * HOUR
    # Of each process; Stripe answers 25 a second with a test key, 100 with a live one.
    stripe_requests_per_second: Annotated[int, Field(ge=1)] = 20
    upload_limit_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    download_link_seconds: Annotated[int, Field(ge=1)] = 15 * 60
    review_lease_seconds: Annotated[int, Field(ge=60)] = 45 * 60
    heartbeat_grace_seconds: Annotated[int, Field(ge=10)] = 90
