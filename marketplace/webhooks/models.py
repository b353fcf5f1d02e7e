from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from marketplace.shared.columns import link, updatable


class Outbox(SQLModel, table=True):
    """Audit events that a client may read but that have no place in its feed yet.

    The database's triggers insert them with the move or withdrawal itself; numbering takes them out.
    """

    __tablename__ = "outbox"
    __table_args__ = updatable(deletable=True)

    audit_event_id: int = Field(
        sa_type=sa.BigInteger, foreign_key="audit_event.id", primary_key=True
    )
    client_id: UUID = link("client.id", index=True)


class FeedEvent(SQLModel, table=True):
    """A client's events, numbered 1, 2, 3 … when they are seen to be committed.

    Numbers given at insertion would let a reader pass an event whose transaction commits late.
    """

    __tablename__ = "feed_event"
    __table_args__ = updatable()

    client_id: UUID = link("client.id", primary_key=True)
    position: int = Field(sa_type=sa.BigInteger, primary_key=True)
    audit_event_id: int = Field(sa_type=sa.BigInteger, foreign_key="audit_event.id", unique=True)
