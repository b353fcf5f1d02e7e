"""What requests are made of: strict bodies that refuse unknown fields and silent coercions."""

import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import langcodes
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic import StringConstraints as Limits


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next_cursor: str | None = Field(
        description="Pass it as `cursor` to get the next page; null on the last page.",
        examples=[None],
    )


def _readable(text: str) -> str:
    if any(
        unicodedata.category(character) in {"Cc", "Cs"}
        for character in text
        if character not in "\n\t"
    ):
        raise ValueError("control characters are not allowed")
    if not any(unicodedata.category(character)[0] in "LNPS" for character in text):
        raise ValueError("nothing of it can be seen")
    return text


def _only_text(value: Any) -> Any:
    # Lax parsing would take 1, 1.0 or true for a time or an id.
    if not isinstance(value, str | datetime | UUID):
        raise ValueError("must be a string")  # noqa: TRY004 - pydantic turns ValueError into 422
    return value


def _date_and_time(value: Any) -> Any:
    # Lax parsing would take "1700000000" for seconds since 1970.
    if isinstance(value, str) and ":" not in value:
        raise ValueError("must be a date and time, such as 2026-01-31T09:30:00Z")
    return value


def _aware_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must carry a time zone offset, such as Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


def _language_tag(tag: str) -> str:
    if not langcodes.tag_is_valid(tag):
        raise ValueError("must be a valid BCP 47 language tag, such as en-US")
    return langcodes.standardize_tag(tag)


Name = Annotated[
    str,
    Limits(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_readable),
]
Prose = Annotated[
    str,
    Limits(strip_whitespace=True, min_length=1, max_length=5_000),
    AfterValidator(_readable),
]
Reason = Annotated[
    str,
    Limits(strip_whitespace=True, min_length=3, max_length=1_000),
    AfterValidator(_readable),
    Field(examples=["Agreed with the performers on the call of 3 November."]),
]
Slug = Annotated[
    str,
    Limits(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$"),
    Field(description="Lower-case letters, digits, - and _", examples=["physical_comedy"]),
]
Id = Annotated[UUID, Strict(strict=False), BeforeValidator(_only_text)]
Time = Annotated[
    datetime,
    Strict(strict=False),
    BeforeValidator(_only_text),
    BeforeValidator(_date_and_time),
    AfterValidator(_aware_utc),
]
LanguageTag = Annotated[
    str,
    Limits(max_length=35),
    AfterValidator(_language_tag),
    Field(description="BCP 47", examples=["en-US"]),
]
Sha256 = Annotated[str, Limits(pattern=r"^[0-9a-f]{64}$"), Field(examples=["9f86d081" * 8])]
