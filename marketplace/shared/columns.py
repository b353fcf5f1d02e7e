"""Column recipes shared by all tables."""

from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from marketplace.shared.ids import new_id

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def key() -> Any:
    return Field(default_factory=new_id, primary_key=True)


def link(target: str, **options: Any) -> Any:
    """A foreign key; `target` is `table.column`."""
    return Field(foreign_key=target, **options)


def now_stamp() -> Any:
    """Set by the database's own clock at insertion (transaction time)."""
    return Field(
        default=None,
        nullable=False,
        sa_type=sa.DateTime(timezone=True),
        sa_column_kwargs={"server_default": sa.text("marketplace_now()")},
    )


def booking_stamp() -> Any:
    """Set by the database under the booking lock: whatever is stamped earlier is committed earlier
    or known to be on its way (see `clock.settle_writes`).
    """
    return Field(
        default=None,
        nullable=False,
        sa_type=sa.DateTime(timezone=True),
        sa_column_kwargs={"server_default": sa.text("booking_time()")},
    )


def stamp(**options: Any) -> Any:
    return Field(sa_type=sa.DateTime(timezone=True), **options)


def state_column(states: type[StrEnum]) -> Any:
    return Field(sa_type=_text_enum(states))


def choice(choices: type[StrEnum], **options: Any) -> Any:
    """An enum kept as text; the guard of its values is the CHECK that `is_one_of` builds."""
    return Field(sa_type=_text_enum(choices), **options)


def is_one_of(column: str, choices: type[StrEnum]) -> sa.CheckConstraint:
    values = ", ".join(f"'{member.value}'" for member in choices)
    return sa.CheckConstraint(f"{column} IN ({values})", name=f"{column}_known")


def minor_units(**options: Any) -> Any:
    return Field(sa_type=sa.BigInteger, **options)


def texts(**options: Any) -> Any:
    return Field(sa_type=ARRAY(sa.Text), **options)


def json_object(**options: Any) -> Any:
    return Field(sa_type=JSONB, **options)


def updatable(*columns: str, deletable: bool = False) -> dict[str, Any]:
    """Table options: the columns that the application's login may change after insertion.

    A table without them is insert-only for the application, by the database's own privileges.
    """
    return {"info": {"updatable": columns, "deletable": deletable}}


def _text_enum(members: type[StrEnum]) -> Any:
    class TextEnum(sa.types.TypeDecorator[StrEnum]):
        impl = sa.Text
        cache_ok = True

        def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
            return None if value is None else members(value).value

        def process_result_value(self, value: Any, dialect: sa.Dialect) -> StrEnum | None:
            return None if value is None else members(value)

    return TextEnum
