"""Rate rows never change: announced, effective and superseded are read off the clock.

The database numbers and stamps each row; it refuses one that takes effect within a minute, so that
no claim can miss it, a cut with less than 336 hours' notice, and UPDATE and DELETE: see
`migrations/versions/0003_guards.sql`.
"""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel

from marketplace.shared.columns import booking_stamp, key, link, now_stamp, stamp, updatable


class RateLineage(SQLModel, table=True):
    """What shares one rate history: one client's jobs of the same kind, whatever they are called.

    The platform's own auditions have a lineage, too: without a client, by currency.
    """

    __tablename__ = "rate_lineage"
    __table_args__ = (
        sa.UniqueConstraint(
            "client_id",
            "currency",
            "elicitation",
            "languages",
            "role_profile",
            "separation",
            name="uq_rate_lineage_identity",
            postgresql_nulls_not_distinct=True,
        ),
        sa.UniqueConstraint("id", "currency"),
        sa.CheckConstraint(
            "(separation = 0) = (separation_reason IS NULL)", name="separation_has_reason"
        ),
        updatable(),
    )

    id: UUID = key()
    client_id: UUID | None = link("client.id", default=None)
    currency: str
    elicitation: str
    # Canonical: sorted, without repeats, joined by commas.
    languages: str
    role_profile: str
    # 0 unless an operator recorded why jobs of this kind are not one lineage.
    separation: int = 0
    separation_reason: str | None = None
    created_at: datetime = now_stamp()
    booked_at: datetime = booking_stamp()

    @property
    def kind(self) -> tuple[str, str, str]:
        """Of one client, these belong to one lineage by themselves."""
        return (self.elicitation, self.languages, self.role_profile)


class Rate(SQLModel, table=True):
    __tablename__ = "rate"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["lineage_id", "currency"], ["rate_lineage.id", "rate_lineage.currency"]
        ),
        # What a claim copies is tied to this row by a composite foreign key.
        sa.UniqueConstraint("id", "lineage_id", "currency", "rate_minor_per_hour"),
        sa.CheckConstraint("rate_minor_per_hour > 0", name="positive"),
        sa.UniqueConstraint("lineage_id", "number"),
        Index(
            "ix_rate_in_force", "lineage_id", sa.text("effective_from DESC"), sa.text("number DESC")
        ),
        updatable(),
    )

    id: UUID = key()
    lineage_id: UUID
    # 1, 2, 3 … in order of announcement; set by a trigger.
    number: int = Field(default=None, nullable=False, sa_column_kwargs={"server_default": "0"})
    currency: str
    rate_minor_per_hour: int = Field(sa_type=sa.BigInteger)
    # The database's own time in whole seconds; set by a trigger.
    announced_at: datetime = now_stamp()
    # Whole seconds. Unless given, the earliest moment that is allowed; set by a trigger.
    effective_from: datetime = stamp(
        default=None,
        nullable=False,
        sa_column_kwargs={"server_default": sa.text("marketplace_now()")},
    )
    reason: str
    # A person's or an API key's id.
    announced_by: UUID
    # To the microsecond, for reports "as of"; set by a trigger, as is every row's here.
    booked_at: datetime = booking_stamp()


class MinimumRate(SQLModel, table=True):
    """The lowest hourly rate a job may be published at. Append-only, newest effective row wins."""

    __tablename__ = "minimum_rate"
    __table_args__ = (
        sa.CheckConstraint("rate_minor_per_hour > 0", name="positive"),
        Index("ix_minimum_rate_currency", "currency", "effective_from"),
        updatable(),
    )

    id: UUID = key()
    currency: str
    rate_minor_per_hour: int = Field(sa_type=sa.BigInteger)
    effective_from: datetime = now_stamp()
    reason: str
    set_by: UUID | None = link("person.id", default=None)
    booked_at: datetime = booking_stamp()
