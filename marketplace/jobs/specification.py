"""What a client asks for, in the field's own terms."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from marketplace.performers.models import AgeBand
from marketplace.performers.schemas import LanguageTags, Slugs
from marketplace.recordings.gates import Tier
from marketplace.shared.schemas import Body, Name, Prose, Slug


class Elicitation(StrEnum):
    IMPROV_DYAD = "improv_dyad"
    IMPROV_SOLO = "improv_solo"
    TARGET_SENTENCE = "target_sentence"
    SCRIPTED = "scripted"
    READ = "read"


class ContentWarning(StrEnum):
    GRIEF = "grief"
    VIOLENCE = "violence"
    SLUR = "slur"
    INTIMACY = "intimacy"
    PANIC = "panic"


class LabelScheme(StrEnum):
    BIG6_NEUTRAL = "big6_neutral"
    PLUTCHIK8 = "plutchik8"
    CUSTOM = "custom"


# Big six: http://www.w3.org/TR/emotion-voc/xml#big6, and neutral.
EMOTIONS: dict[LabelScheme, frozenset[str]] = {
    LabelScheme.BIG6_NEUTRAL: frozenset(
        {"anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"}
    ),
    LabelScheme.PLUTCHIK8: frozenset(
        {"anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust"}
    ),
}


class Intensity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Arc(StrEnum):
    STEADY = "steady"
    RISE = "rise"
    FALL = "fall"
    SHIFT = "shift"


class Dimension(StrEnum):
    VALENCE = "valence"
    AROUSAL = "arousal"
    DOMINANCE = "dominance"


# Self-assessment manikins: a dimension goes from 1 to this many points.
SCALE_POINTS = {"sam5": 5, "sam7": 7, "sam9": 9}


class Use(StrEnum):
    TRAIN_EMOTION_RECOGNITION = "train_emotion_recognition"
    TRAIN_SPEECH_GENERATION = "train_speech_generation"
    EVALUATION = "evaluation"
    HUMAN_REVIEW = "human_review"
    DEMO = "demo"


class ForbiddenUse(StrEnum):
    VOICE_CLONE = "voice_clone"
    BIOMETRIC_ID = "biometric_id"
    WORKPLACE_EMOTION_RECOGNITION = "workplace_emotion_recognition"
    SUBLICENCE = "sublicence"


class Labels(Body):
    """What is asked for: emotions of the scheme, and values on these dimensions' scale."""

    scheme: Annotated[LabelScheme, Strict(strict=False)] = LabelScheme.BIG6_NEUTRAL
    dimensions: Annotated[list[Annotated[Dimension, Strict(strict=False)]], Field(max_length=3)] = (
        Field(default_factory=lambda: list(Dimension))
    )
    dimension_scale: Literal["sam5", "sam7", "sam9"] = "sam7"


class Speakers(Body):
    languages: LanguageTags
    skills: Slugs = Field(default_factory=list, description="All of them are required")
    accents: Slugs = Field(default_factory=list, description="Preferred")
    age_bands: Annotated[
        list[Annotated[AgeBand, Strict(strict=False)]],
        Field(max_length=len(AgeBand), description="Preferred"),
    ] = Field(default_factory=list)


class Audio(Body):
    tier: Annotated[Tier, Strict(strict=False)] = Tier.STUDIO


class Licence(Body):
    """What performers consent to. A voice clone is never among the allowed uses."""

    version: Annotated[Slug, Field(examples=["acme-emotion-1"])]
    text: Prose = Field(examples=["Acme Voice Lab may use the takes to train and evaluate …"])
    allowed_uses: Annotated[list[Annotated[Use, Strict(strict=False)]], Field(min_length=1)]
    forbidden_uses: list[Annotated[ForbiddenUse, Strict(strict=False)]] = Field(
        default_factory=lambda: list(ForbiddenUse)
    )
    term_months: Annotated[int | None, Field(ge=1, le=1_200)] = None
    territory: Annotated[Slug, Field(examples=["worldwide"])] = "worldwide"
    exclusive: bool = False

    @model_validator(mode="after")
    def forbids_voice_clones(self) -> Self:
        if ForbiddenUse.VOICE_CLONE not in self.forbidden_uses:
            raise ValueError("forbidden_uses must include voice_clone")
        return self


class Specification(Body):
    elicitation: Annotated[Elicitation, Strict(strict=False)]
    labels: Labels = Field(default_factory=Labels)
    speakers: Speakers
    audio: Audio = Field(default_factory=Audio)
    licence: Licence


class Target(Body):
    """What one role should convey, and how."""

    emotion: Annotated[Slug, Field(examples=["sadness"])]
    intensity: Annotated[Intensity, Strict(strict=False)] = Intensity.MEDIUM
    arc: Annotated[Arc, Strict(strict=False)] = Arc.STEADY


class NewRole(Body):
    name: Annotated[Name, Field(examples=["The one who lost the letter"])]
    brief: Prose = Field(examples=["You find the letter you thought was gone for good."])
    target: Target


class Scenario(Body):
    title: Annotated[Name, Field(examples=["The lost letter"])]
    brief: Prose = Field(examples=["A quiet kitchen, late evening. A drawer sticks."])
    target_sentences: Annotated[list[Name], Field(max_length=20)] = Field(default_factory=list)
    content_warnings: list[Annotated[ContentWarning, Strict(strict=False)]] = Field(
        default_factory=list
    )


class NewTask(Body):
    scenario: Scenario
    roles: Annotated[
        list[NewRole],
        Field(min_length=1, max_length=1, description="Scenes with partners are not run yet"),
    ]
    copies: Annotated[int, Field(ge=1, le=10_000, description="This many such tasks")] = 1
