from datetime import datetime
from uuid import UUID

from sqlmodel import Field, SQLModel

from marketplace.shared.columns import key, link, now_stamp, stamp, updatable


class DownloadLink(SQLModel, table=True):
    """A link that serves one take until it expires; only its hash is kept."""

    __tablename__ = "download_link"
    __table_args__ = updatable()

    id: UUID = key()
    token_hash: str = Field(unique=True)
    client_id: UUID = link("client.id")
    recording_id: UUID = link("recording.id", index=True)
    consent_grant_id: UUID = link("consent_grant.id")
    # A member's or an API key's id.
    made_by: UUID
    created_at: datetime = now_stamp()
    expires_at: datetime = stamp()
