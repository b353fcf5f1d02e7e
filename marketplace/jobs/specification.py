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
    BIG6_NEUTRAL = "big6_neutral"  # Ekman's six and neutral
    MSP17 = "msp17"  # the secondary emotions of MSP-Podcast
    PLUTCHIK8 = "plutchik8"
    GENEVA20 = "geneva20"  # the Geneva Emotion Wheel, version 3
    CUSTOM = "custom"  # the client's own words


EMOTIONML = "http://www.w3.org/TR/emotion-voc/xml"

# The W3C's EmotionML vocabulary of each enumeration, where there is one
# (https://www.w3.org/TR/emotion-voc/).
VOCABULARY_URIS = {
    "big6_neutral": f"{EMOTIONML}#big6",
    "dimensions": f"{EMOTIONML}#pad-dimensions",
}

EMOTIONS: dict[LabelScheme, frozenset[str]] = {
    LabelScheme.BIG6_NEUTRAL: frozenset(
        {"anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"}
    ),
    LabelScheme.MSP17: frozenset(
        {
            *("amused", "angry", "annoyed", "concerned", "confused", "contempt", "depressed"),
            *("disappointed", "disgust", "excited", "fear", "frustrated", "happy", "neutral"),
            *("other", "sad", "surprise"),
        }
    ),
    LabelScheme.PLUTCHIK8: frozenset(
        {"anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust"}
    ),
    LabelScheme.GENEVA20: frozenset(
        {
            *("admiration", "amusement", "anger", "compassion", "contempt", "contentment"),
            *("disappointment", "disgust", "fear", "guilt", "hate", "interest", "joy", "love"),
            *("pleasure", "pride", "regret", "relief", "sadness", "shame"),
        }
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


class WantedMinutes(Body):
    """How much of an emotion is wanted in all; null means of any intensity, or any arc."""

    emotion: Annotated[Slug, Field(examples=["sadness"])]
    intensity: Annotated[Intensity, Strict(strict=False)] | None = None
    arc: Annotated[Arc, Strict(strict=False)] | None = None
    accepted_minutes: Annotated[int, Field(ge=1, le=100_000, examples=[30])]


class Labels(Body):
    """What is asked for: emotions of the scheme, and values on these dimensions' scale."""

    scheme: Annotated[LabelScheme, Strict(strict=False)] = Field(
        LabelScheme.BIG6_NEUTRAL,
        description=f"The W3C's vocabulary of big6_neutral is {VOCABULARY_URIS['big6_neutral']} "
        "(and neutral); the other schemes have none there.",
    )
    wanted: Annotated[
        list[WantedMinutes],
        Field(
            max_length=100,
            description="The job's progress is measured against these; see its /progress.",
        ),
    ] = Field(default_factory=list)
    dimensions: Annotated[
        list[Annotated[Dimension, Strict(strict=False)]],
        Field(
            max_length=3,
            description=f"The W3C's vocabulary of these is {VOCABULARY_URIS['dimensions']}.",
        ),
    ] = Field(default_factory=lambda: list(Dimension))
    dimension_scale: Literal["sam5", "sam7", "sam9"] = "sam7"


class Speakers(Body):
    languages: LanguageTags
    skills: Slugs = Field(default_factory=list, description="All of them are required")
    accents: Slugs = Field(default_factory=list, description="Preferred")
    age_bands: Annotated[
        list[Annotated[AgeBand, Strict(strict=False)]],
        Field(max_length=len(AgeBand), description="Preferred"),
    ] = Field(default_factory=list)
    minimum: Annotated[
        int,
        Field(ge=1, le=10_000, description="No fewer people than this fill all of the job's roles"),
    ] = 1
    largest_share_percent: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="One person fills no more than this share of all of the job's roles, "
            "published or not; but one role always",
        ),
    ] = 100

    def most_roles_of_one(self, roles: int) -> int:
        """How many of a job's roles one person may fill, so that both limits are kept."""
        share = roles * self.largest_share_percent // 100
        # If everybody filled more than this, fewer people than the minimum would fill them all.
        spread = (roles - 1) // (self.minimum - 1) if self.minimum > 1 else roles
        return max(1, min(share, spread))


class Audio(Body):
    """One mono track for each speaker, WAV or FLAC."""

    tier: Annotated[Tier, Strict(strict=False)] = Tier.STUDIO
    room_tone_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=60,
            description="Of the empty room, at the start of each take. Told to performers and "
            "reviewers; no gate measures it yet.",
        ),
    ] = 10


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
        Field(
            min_length=1,
            max_length=4,
            description="The people in the scene. Scenes with partners can be drafted and quoted; "
            "they are not run yet.",
        ),
    ]
    copies: Annotated[int, Field(ge=1, le=10_000, description="This many such tasks")] = 1
