from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from marketplace.recordings.gates import Tier
from marketplace.recordings.models import RecordingState
from marketplace.shared.schemas import Answer, Body, Sha256


class NewRecording(Body):
    size_bytes: Annotated[int, Field(gt=0, le=2**40, examples=[1_440_044])]
    sha256: Sha256


class RecordingAnswer(Answer):
    id: UUID
    state: RecordingState = Field(examples=["passed"])
    state_reason: str | None
    tier: Tier
    size_bytes: int
    sha256: str
    upload_path: str = Field(
        description="PUT exactly the declared bytes here.",
        examples=["/v1/recordings/0199…/content"],
    )
    report: dict[str, Any] | None = Field(
        description="What was measured, each gate with its limits and verdict; null until checked."
    )
    created_at: datetime
