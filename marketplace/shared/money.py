"""Arithmetic of pay, in integer minor units only."""

from typing import Annotated, Literal

from pydantic import Field

SECONDS_PER_HOUR = 3600
BASIS_POINTS = 10_000

# Far above any honest amount, far below what BIGINT and a JSON reader's 2**53 can hold.
LARGEST_AMOUNT_MINOR = 10**11

# What clients pay and performers earn in: currencies of two decimals in which platforms in the
# United States and Europe can settle and pay out (docs.stripe.com/payouts/alternative-currencies).
# One of no decimals or three, or one that Stripe pays out in whole units (HUF), needs arithmetic of
# its own.
Currency = Annotated[
    Literal["USD", "EUR", "GBP", "CHF", "CAD", "AUD", "NZD", "SEK", "NOK", "DKK", "PLN"],
    Field(examples=["USD"]),
]
AmountMinor = Annotated[int, Field(gt=0, le=LARGEST_AMOUNT_MINOR, examples=[100_000])]
RateMinorPerHour = Annotated[int, Field(gt=0, le=10**8, examples=[7_400])]


def pay_minor(seconds: int, rate_minor_per_hour: int) -> int:
    """Pay for one claim's whole seconds, rounded half up once.

    Rounding each time entry instead would pay 3,600 one-second entries at 18.00/h twice over.
    """
    if seconds < 0 or rate_minor_per_hour < 0:
        raise ValueError("seconds and rate must not be negative")
    return (2 * seconds * rate_minor_per_hour + SECONDS_PER_HOUR) // (2 * SECONDS_PER_HOUR)


def fee_minor(pay: int, fee_basis_points: int) -> int:
    """The platform's fee on one claim's pay, rounded half up once."""
    if pay < 0 or fee_basis_points < 0:
        raise ValueError("pay and fee must not be negative")
    return (2 * pay * fee_basis_points + BASIS_POINTS) // (2 * BASIS_POINTS)


def cost_minor(seconds: int, rate_minor_per_hour: int, fee_basis_points: int) -> int:
    """What a client is charged for the seconds: pay and fee, each rounded once."""
    pay = pay_minor(seconds, rate_minor_per_hour)
    return pay + fee_minor(pay, fee_basis_points)


def display(amount_minor: int, currency: str) -> str:
    """For people: `76.06 USD`. Every `Currency` has two decimals."""
    sign = "-" if amount_minor < 0 else ""
    whole, cents = divmod(abs(amount_minor), 100)
    return f"{sign}{whole:,}.{cents:02} {currency}"
