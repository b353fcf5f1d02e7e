import zoneinfo
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, Strict, StringConstraints

from marketplace.performers.models import (
    AgeBand,
    AuditionState,
    PerformerState,
    TransfersCapability,
)
from marketplace.shared.money import Currency, RateMinorPerHour
from marketplace.shared.schemas import Answer, Body, Id, LanguageTag, Prose, Reason, Slug

# The officially assigned codes of ISO 3166-1 alpha-2, as the time zone database's iso3166.tab has
# them.
COUNTRIES = """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE
    EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM
    HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC
    LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA
    NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
    SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO
    TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
"""


def _known_country(code: str) -> str:
    if code not in COUNTRIES.split():
        raise ValueError("must be an ISO 3166-1 alpha-2 code, such as PT")
    return code


def _known_time_zone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError("must be an IANA time zone, such as Europe/Lisbon")
    return name


def _without_repeats(values: list[str]) -> list[str]:
    return sorted(set(values))


LanguageTags = Annotated[
    list[LanguageTag], Field(min_length=1, max_length=20), AfterValidator(_without_repeats)
]
Slugs = Annotated[list[Slug], Field(max_length=30), AfterValidator(_without_repeats)]
TimeZone = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_known_time_zone),
    Field(examples=["Europe/Lisbon"]),
]
Country = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Z]{2}$"),
    AfterValidator(_known_country),
    Field(description="ISO 3166-1 alpha-2", examples=["PT"]),
]


class Profile(Body):
    languages: LanguageTags
    accents: Slugs = Field(default_factory=list, examples=[["lisbon"]])
    skills: Slugs = Field(default_factory=list, examples=[["improv", "singing"]])
    age_band: Annotated[AgeBand | None, Strict(strict=False)] = None
    time_zone: TimeZone
    work_country: Country


class PerformerAnswer(Answer):
    person_id: UUID
    state: PerformerState
    state_reason: str | None
    languages: list[str]
    accents: list[str]
    skills: list[str]
    age_band: AgeBand | None
    time_zone: str
    work_country: str
    claims_limit: int
    live_claims: int
    version: int
    applied_at: datetime


class NewAudition(Body):
    brief: Prose = Field(examples=["Two minutes as someone who finds a letter they lost."])
    currency: Currency
    seconds_cap: Annotated[int, Field(ge=60, le=7_200, description="Paid at most this long")] = (
        1_800
    )


class AuditionAnswer(Answer):
    id: UUID
    performer_id: UUID
    state: AuditionState = Field(examples=["passed"])
    state_reason: str | None
    brief: str = Field(examples=["Two minutes as someone who finds a letter they lost."])
    currency: str
    rate_minor_per_hour: int = Field(examples=[3_000])
    seconds_cap: int = Field(examples=[1_800])
    due_at: datetime | None = Field(
        description="The last moment to hand it in; once handed in, when it should be judged, or "
        "when the reviewers are next reminded."
    )
    started_at: datetime | None
    ended_at: datetime | None
    worked_seconds: int = Field(
        description="Counted at each heartbeat, and when you hand in.", examples=[180]
    )
    recording_id: UUID | None
    paid_seconds: int | None = Field(examples=[180])
    pay_minor: int | None = Field(examples=[150])


class WaitingAuditionAnswer(AuditionAnswer):
    waiting_since: datetime
    late: bool = Field(description="It should have been judged by now; take it first.")


class HandedInAudition(Body):
    recording_id: Id


class AuditionDecision(Body):
    outcome: Literal["passed", "failed"]
    reason: Reason


class NewAuditionRate(Body):
    currency: Currency
    rate_minor_per_hour: RateMinorPerHour
    reason: Reason


class StateReason(Body):
    reason: Reason


class NewClaimsLimit(Body):
    claims_limit: Annotated[
        int, Field(ge=1, le=50, description="Claims in hand at once", examples=[5])
    ]
    reason: Reason


class NewPayoutAccount(Body):
    return_url: Annotated[
        str,
        StringConstraints(max_length=2_000, pattern=r"^https?://[\x21-\x7e]+$"),
        Field(examples=["https://app.example/paid"]),
    ]


class PayoutAccountAnswer(Answer):
    transfers: TransfersCapability = Field(description="You can be paid while it is `active`.")
    requirement: str | None = Field(description="What Stripe still wants from you.")
    seen_at: datetime | None
    onboarding_url: str | None = Field(
        default=None, description="Stripe's hosted page; it works once, for a few minutes."
    )
