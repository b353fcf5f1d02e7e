from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Index, SQLModel, text

from marketplace.recordings.gates import Tier
from marketplace.shared.columns import (
    choice,
    is_one_of,
    json_object,
    key,
    link,
    minor_units,
    now_stamp,
    stamp,
    state_column,
    updatable,
)
from marketplace.shared.states import Moves


class RecordingState(StrEnum):
    UPLOADING = "uploading"  # announced; its bytes are not (all) here
    CHECKING = "checking"  # stored whole; waits for its check
    PASSED = "passed"
    LOOK = "look"  # a person should look at a gate, or hear what we could not measure
    RETAKE = "retake"  # a gate says record it again (paid)
    UNREADABLE = "unreadable"  # not audio we can read; its bytes are gone
    PURGED = "purged"  # never handed in, its work long over; its bytes are gone


RECORDING_MOVES: Moves[RecordingState] = {
    None: frozenset({RecordingState.UPLOADING}),
    RecordingState.UPLOADING: frozenset({RecordingState.CHECKING, RecordingState.UNREADABLE}),
    RecordingState.CHECKING: frozenset(
        {
            RecordingState.PASSED,
            RecordingState.LOOK,
            RecordingState.RETAKE,
            RecordingState.UNREADABLE,
        }
    ),
    RecordingState.PASSED: frozenset({RecordingState.PURGED}),
    RecordingState.LOOK: frozenset({RecordingState.PURGED}),
    RecordingState.RETAKE: frozenset({RecordingState.PURGED}),
}
USABLE = frozenset({RecordingState.PASSED, RecordingState.LOOK})
CHECKED = USABLE | {RecordingState.RETAKE}
WITHOUT_BYTES = frozenset({RecordingState.UNREADABLE, RecordingState.PURGED})
FINAL = CHECKED | WITHOUT_BYTES


class Recording(SQLModel, table=True):
    __tablename__ = "recording"
    __table_args__ = (
        sa.CheckConstraint("size_bytes > 0", name="size_positive"),
        is_one_of("tier", Tier),
        Index("ix_recording_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        updatable("state", "state_reason", "due_at", "check_tries", "report"),
    )

    id: UUID = key()
    owner_id: UUID = link("person.id", index=True)
    # Whose job it was made for; null for auditions. An event of each move goes to this client.
    client_id: UUID | None = link("client.id", default=None)
    state: RecordingState = state_column(RecordingState)
    state_reason: str | None = None
    # When it is checked next, or given up while uploading.
    due_at: datetime | None = stamp(default=None)
    # Checks that broke off through no fault of the file's.
    check_tries: int = 0
    size_bytes: int = minor_units()
    sha256: str
    tier: Tier = choice(Tier)
    longest_seconds: int
    # Numbers, gates with their version, tool versions: what an appeal replays.
    report: dict[str, Any] | None = json_object(default=None)
    created_at: datetime = now_stamp()

    @property
    def is_unmeasured(self) -> bool:
        """Whole, but our check gave up on it."""
        return self.state is RecordingState.LOOK and "reason_code" in (self.report or {})

    @property
    def storage_key(self) -> str:
        return f"recordings/{self.id}"
