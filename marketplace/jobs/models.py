from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, Index, SQLModel, text

from marketplace.shared.columns import (
    json_object,
    key,
    link,
    minor_units,
    now_stamp,
    stamp,
    state_column,
    texts,
    updatable,
)
from marketplace.shared.states import Moves


class JobState(StrEnum):
    DRAFT = "draft"  # may be edited; nobody sees it
    OPEN = "open"  # its open roles are on the board
    PAUSED = "paused"  # no new claims; live ones finish
    CLOSING = "closing"  # no new claims; closes when no reservation is outstanding
    CLOSED = "closed"
    CANCELLED = "cancelled"  # a draft that was given up


JOB_MOVES: Moves[JobState] = {
    None: frozenset({JobState.DRAFT}),
    JobState.DRAFT: frozenset({JobState.OPEN, JobState.CANCELLED}),
    JobState.OPEN: frozenset({JobState.PAUSED, JobState.CLOSING}),
    JobState.PAUSED: frozenset({JobState.OPEN, JobState.CLOSING}),
    JobState.CLOSING: frozenset({JobState.CLOSED}),
}


class RoleState(StrEnum):
    UNFUNDED = "unfunded"  # no money set aside; on no board
    OPEN = "open"  # its worst case is reserved; may be claimed
    HELD = "held"  # a claim holds it
    DONE = "done"  # its take was accepted
    WITHDRAWN = "withdrawn"  # its job closed first


ROLE_MOVES: Moves[RoleState] = {
    None: frozenset({RoleState.UNFUNDED}),
    RoleState.UNFUNDED: frozenset({RoleState.OPEN, RoleState.WITHDRAWN}),
    RoleState.OPEN: frozenset({RoleState.HELD, RoleState.UNFUNDED, RoleState.WITHDRAWN}),
    RoleState.HELD: frozenset(
        {RoleState.OPEN, RoleState.UNFUNDED, RoleState.DONE, RoleState.WITHDRAWN}
    ),
}


class Job(SQLModel, table=True):
    __tablename__ = "job"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["lineage_id", "currency"],
            ["rate_lineage.id", "rate_lineage.currency"],
            name="fk_job_lineage",
        ),
        sa.UniqueConstraint("id", "client_id", "lineage_id"),
        sa.CheckConstraint("retakes_max BETWEEN 0 AND 2", name="retakes_max_allowed"),
        sa.CheckConstraint("most_roles_of_one > 0", name="one_role_each"),
        Index("ix_job_client_id", "client_id", "id"),
        # The board: open jobs in one of the performer's languages.
        Index(
            "ix_job_board",
            "languages",
            postgresql_using="gin",
            postgresql_where=text("state = 'open'"),
        ),
        Index("ix_job_closing", "id", postgresql_where=text("state = 'closing'")),
        updatable(
            "state",
            "state_reason",
            "title",
            "brief",
            "specification",
            "languages",
            "skills",
            "accents",
            "age_bands",
            "most_roles_of_one",
            "lineage_id",
            "asked_rate_minor_per_hour",
            "fee_basis_points",
            "prep_seconds_cap",
            "perform_seconds_cap",
            "retakes_max",
            "claim_window_seconds",
            "review_seconds",
            "published_at",
            "version",
        ),
    )

    id: UUID = key()
    client_id: UUID = link("client.id")
    state: JobState = state_column(JobState)
    state_reason: str | None = None
    title: str
    brief: str
    specification: dict[str, Any] = json_object()
    # The board's copies of what the specification asks of speakers.
    languages: list[str] = texts()
    skills: list[str] = texts()
    accents: list[str] = texts()
    age_bands: list[str] = texts()
    # How many of its roles one person may fill, by its speakers' minimum and largest share.
    most_roles_of_one: int
    lineage_id: UUID
    currency: str
    # What the client asked for when drafting. What is paid is the lineage's rate, which each
    # claim locks.
    asked_rate_minor_per_hour: int = minor_units()
    # The platform's fee on pay, fixed when the job is published.
    fee_basis_points: int | None = None
    prep_seconds_cap: int
    perform_seconds_cap: int
    retakes_max: int
    claim_window_seconds: int
    review_seconds: int
    published_at: datetime | None = stamp(default=None)
    created_at: datetime = now_stamp()
    version: int = 1


class Task(SQLModel, table=True):
    """A scene: what happens in it, and 1 to 4 roles to play."""

    __tablename__ = "task"
    __table_args__ = (
        sa.UniqueConstraint("job_id", "number"),
        sa.UniqueConstraint("id", "job_id"),
        updatable(deletable=True),
    )

    id: UUID = key()
    job_id: UUID = link("job.id")
    number: int
    scenario: dict[str, Any] = json_object()


class Role(SQLModel, table=True):
    __tablename__ = "role"
    __table_args__ = (
        sa.UniqueConstraint("task_id", "number"),
        sa.UniqueConstraint("id", "task_id", "job_id", "client_id"),
        sa.ForeignKeyConstraint(
            ["task_id", "job_id"], ["task.id", "task.job_id"], name="fk_role_task"
        ),
        sa.ForeignKeyConstraint(
            ["reservation_id", "client_id"],
            ["reservation.id", "reservation.client_id"],
            name="fk_role_reservation",
        ),
        sa.CheckConstraint("number BETWEEN 1 AND 4", name="number_allowed"),
        sa.CheckConstraint(
            "state IN ('unfunded', 'withdrawn') OR reservation_id IS NOT NULL", name="reserved"
        ),
        sa.CheckConstraint(
            "prep_seconds_cap >= 0 AND perform_seconds_cap > 0 AND retakes_max BETWEEN 0 AND 2",
            name="caps_sensible",
        ),
        # The board: open roles, job by job.
        Index("ix_role_board", "job_id", "id", postgresql_where=text("state = 'open'")),
        Index("ix_role_job_id", "job_id", "state"),
        updatable("state", "state_reason", "reservation_id", deletable=True),
    )

    id: UUID = key()
    task_id: UUID
    job_id: UUID
    client_id: UUID = link("client.id")
    number: int
    name: str
    brief: str
    target: dict[str, Any] = json_object()
    # Caps of each claim on this role, in seconds; retakes may use the perform cap once each.
    prep_seconds_cap: int
    perform_seconds_cap: int
    retakes_max: int
    state: RoleState = state_column(RoleState)
    state_reason: str | None = None
    reservation_id: UUID | None = Field(default=None, unique=True)

    @property
    def longest_seconds(self) -> int:
        """The worst case that its reserve must cover."""
        return self.prep_seconds_cap + self.perform_seconds_cap * (1 + self.retakes_max)
