"""Everything that may differ between two installations, from environment variables."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HOUR = 3600
DAY = 24 * HOUR


class Settings(BaseSettings):
    """Read from the environment by these names in upper case (`DATABASE_URL` …)."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    # The application's login; it owns no table. The owner's login stands in
    # MIGRATION_DATABASE_URL and is read by `marketplace migrate` alone.
    database_url: str
    database_pool_size: Annotated[int, Field(ge=1, le=64)] = 12

    stripe_api_key: SecretStr
    # None is Stripe itself; the sandbox server has a loopback address.
    stripe_api_base: str | None = None
    stripe_webhook_secret: SecretStr
    stripe_connect_webhook_secret: SecretStr

    # Where browsers and clients reach this service; links are built from it.
    public_url: str = "http://127.0.0.1:8000"
    storage_url: str
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    docs_enabled: bool = True

    platform_fee_basis_points: Annotated[int, Field(ge=0, le=10_000)] = 1_500
    minimum_payout_minor: Annotated[int, Field(ge=1)] = 100
    upload_limit_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    download_link_seconds: Annotated[int, Field(ge=1)] = 15 * 60
    review_lease_seconds: Annotated[int, Field(ge=60)] = 45 * 60
    heartbeat_grace_seconds: Annotated[int, Field(ge=10)] = 90
